//! The grammar of the command line.

mod app;
mod bind;
mod cdi;
mod cluster;
mod floors;
mod jellyfin;
mod mig;
mod nvml;
mod serve;
mod stress;
mod top;
mod trial;
mod up;
mod wish;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use model::{Bdf, Layer};

pub use app::{AppVerb, ProveArgs};
pub use bind::{BindArgs, HandoverArgs, UnbindArgs};
pub use cdi::{
    CdiVerb, FormWish, GenerateArgs, NameStrategy, RefreshArgs, RelativeTo, RootArgs, SpecArgs, TransformVerb,
};
pub use cluster::{KubeVerb, PatchArgs, Words};
pub use floors::{GuestVerb, HostVerb, Verb, VmVerb};
pub use jellyfin::{GiveTo, JellyfinVerb, ServerArgs};
pub use mig::{MigCards, MigVerb, MigWish};
pub use nvml::{GpusArgs, SmiArgs};
pub use serve::{HostWish, ServeArgs};
pub use stress::StressArgs;
pub use top::TopArgs;
pub use trial::{AskWish, ContainerVerb, TrialArgs};
pub use up::{DownArgs, GraphWish, HoldArgs, InitArgs, UpArgs, WayVerb, WholePlanArgs};
pub use wish::{ApplyArgs, GuardWish, HintWish, PlanArgs, RuntimeWish, UndoArgs, WishArgs};

#[derive(Parser, Debug)]
#[command(
    name = "thruway",
    version,
    about = "Takes an NVIDIA GPU from the PCI slot to the app: says where it breaks, plans the fix, proves it, takes it back",
    long_about = "thruway walks the whole way a GPU takes (host, VM, guest, container, cluster, app), says where it is \
                  lost and why, fixes it by a plan that you read first, and takes it back byte for byte.\n\n\
                  Exit status: 0 all well, 1 findings, 2 could not look.",
    after_help = "Start with `thruway doctor`. No GPU at hand? `thruway demo` shows the whole way on simulated machines.",
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// `thruway cdi …` alone: a runtime may run it for a container that waits, and the whole grammar takes longer to build than a spec.
#[derive(Parser, Debug)]
#[command(
    name = "thruway cdi",
    bin_name = "thruway cdi",
    version,
    subcommand_required = true,
    disable_help_subcommand = true
)]
pub struct CdiCli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: CdiVerb,
}

#[derive(Args, Debug, Clone, Default)]
pub struct Global {
    /// Look at (and change) the machine whose root file system is this directory
    #[arg(long, value_name = "DIR", global = true, conflicts_with_all = ["from", "sim"], help_heading = "Which machine")]
    pub root: Option<PathBuf>,
    /// Look at a recorded machine: a file written by `thruway capture`, or a partial tree
    #[arg(long, value_name = "CAPTURE", global = true, conflicts_with = "sim", help_heading = "Which machine")]
    pub from: Option<PathBuf>,
    /// Look at a simulated machine by its name (`thruway demo --list` names them)
    #[arg(long, value_name = "BOX", global = true, help_heading = "Which machine")]
    pub sim: Option<String>,
    /// Print JSON, versioned, in place of the report
    #[arg(long, global = true, help_heading = "Output")]
    pub json: bool,
    /// Show everything: checks that pass, whole diffs
    #[arg(long, short, global = true, help_heading = "Output")]
    pub verbose: bool,
    /// When to use colour
    #[arg(long, value_enum, default_value_t, global = true, help_heading = "Output")]
    pub color: Color,
    #[command(flatten)]
    pub pve: PveArgs,
    /// What the reports call the machine, where a scene gave it a name.
    #[arg(skip)]
    pub label: Option<String>,
}

/// Proxmox VE's API in place of `qm`.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Proxmox VE's API")]
pub struct PveArgs {
    /// Speak to this node's API, e.g. https://192.0.2.10:8006: `thruway vm …` then looks at its VMs and changes them from
    /// anywhere; with --root, and for plans of all floors, it only changes VMs by it in place of qm. The login is an API
    /// token (--pve-token-file or THRUWAY_PVE_TOKEN), or --pve-user with THRUWAY_PVE_PASSWORD
    #[arg(id = "pve", long = "pve", value_name = "URL", global = true, hide_short_help = true)]
    pub url: Option<String>,
    /// The cluster's node that is meant, where it is not the only one nor that of the named VM
    #[arg(
        id = "pve_node",
        long = "pve-node",
        value_name = "NODE",
        global = true,
        hide_short_help = true,
        requires = "pve"
    )]
    pub node: Option<String>,
    /// A file that holds USER@REALM!NAME=SECRET
    #[arg(id = "pve_token_file", long = "pve-token-file", value_name = "FILE", global = true, hide_short_help = true)]
    pub token_file: Option<PathBuf>,
    /// Log in as this user: root@pam alone may give a raw PCI address
    #[arg(id = "pve_user", long = "pve-user", value_name = "USER@REALM", global = true, hide_short_help = true)]
    pub user: Option<String>,
    /// Believe this certificate alone, by its SHA-256 fingerprint (pvenode cert info)
    #[arg(id = "pve_fingerprint", long = "pve-fingerprint", value_name = "HEX", global = true, hide_short_help = true)]
    pub fingerprint: Option<String>,
    /// Believe certificates signed by this CA; without it the cluster's own, or this machine's list
    #[arg(id = "pve_ca", long = "pve-ca", value_name = "FILE", global = true, hide_short_help = true)]
    pub ca: Option<PathBuf>,
}

#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    Always,
    Never,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Walk the whole way and say where the GPU is lost, why, and how to mend it
    Doctor {
        /// Only this floor: host, vm, guest, container, cluster, app
        #[arg(long, value_name = "FLOOR")]
        layer: Option<Layer>,
    },
    /// List every GPU: what it is, what it shares, who has it now
    #[command(
        long_about = "List every GPU: what it is, what it shares, who has it now. With -v all that NVML tells of it: health, \
                      limits, links, MIG, sessions.\n\nWith --watch the driver is asked again and again in one open \
                      conversation: redrawn on a terminal, one block a tick in a pipe, one JSON object a line with --json. \
                      Xids are shown as they come, with their meaning. Ctrl-C ends it.\n\nExit status: 0 a card was found, \
                      1 none, 2 could not look."
    )]
    Gpus(GpusArgs),
    /// Who uses the GPUs: cards with their history, processes with container, pod and app
    #[command(
        long_about = "Who uses the GPUs now, drawn anew each second: each card with its history (compute units, memory, encoder, \
                      decoder) and each process on it with its container, pod, unit, system container or VM, and the app that \
                      people know it by. Cards that a VM has are listed with it. It asks NVML, /proc and the engines' own files, \
                      and changes nothing. Run it as root to have the names of all containers; inside a container the processes' \
                      owners are hidden, and it says so.\n\nKeys: q quit, s sort, r reverse, c or 0 to 9 one card, a all, p pause, \
                      arrows scroll, h help.\n\nExit status: 0 drawn, 1 no card, 2 could not look."
    )]
    Top(TopArgs),
    /// What the driver says of its GPUs, in nvidia-smi's forms
    #[command(
        long_about = "What the driver's NVML says of its GPUs, in the forms of nvidia-smi, printed by thruway: the table, -L, \
                      -q, -q -x, --query-gpu and --query-compute-apps. It needs the driver's library and not the tool. The \
                      form is that of the running driver's branch. With --from it prints what a capture recorded. A \
                      simulated library shows by its VBIOS version.\n\nExit status: 0 printed, 2 a field or a switch that \
                      is not known, 6 no such GPU, 9 no driver, 15 a GPU is lost, else as nvidia-smi's."
    )]
    Smi(SmiArgs),
    /// What each GPU decodes and encodes, asked of the card itself
    #[command(
        long_about = "What each GPU decodes (NVDEC) and encodes (NVENC), asked of the card itself: codec, chroma, depth, \
                      size, engines, and the driver's limit of encoding sessions. It takes a CUDA context and for a moment \
                      an encoding session of each card. Where a card cannot be asked (no driver, or a VM has it) a table by \
                      chip answers, and says that it is one.\n\nExit status: 0 every card answered, 1 no card, or none of \
                      which anything is known, 2 a card could not be asked."
    )]
    Codecs {
        /// Only this card
        #[arg(value_name = "BDF")]
        card: Option<Bdf>,
    },
    /// How the cards lie to each other: NVLinks, the way over PCIe, NUMA
    #[command(
        visible_alias = "topology",
        long_about = "How the cards of NVIDIA's driver lie to each other and to RDMA adapters, as a matrix in the words of nvidia-smi \
                      topo -m: NVLinks, the nearest way over PCIe, near CPUs and NUMA node. Read from sysfs and NVML; nothing is \
                      run.\n\nExit status: 0 shown, 1 no card of a running driver, 2 could not look."
    )]
    Topo {
        /// The matrix, as nvidia-smi topo asks for it; it is shown anyhow
        #[arg(short = 'm', long = "matrix", hide = true)]
        matrix: bool,
    },
    /// Serve metrics to Prometheus, and a page: the way, each card's owner, live plots, findings with fixes
    #[command(
        long_about = "Serve metrics to Prometheus, and a page: the way, each card's owner, live plots, findings with fixes. It \
                      only reads; nothing can be changed over it.\n\nIt listens on loopback alone (127.0.0.1 and ::1, port \
                      9466) unless told otherwise, and elsewhere only with TLS and a token, or behind a proxy. With --names \
                      dcgm or nvidia_gpu_exporter the dashboards made for those go on. SIGHUP reads certificates again; \
                      SIGTERM and Ctrl-C end it. docs/serve.md has every metric."
    )]
    Serve(ServeArgs),
    /// Let a GPU compute for a while and check every result, bit by bit
    #[command(
        long_about = "Let a GPU compute and move memory for a while, and check every result bit by bit: patterns over what \
                      memory is free, integers and exact floating point. Clocks, power, temperature and ECC errors are \
                      watched. It needs the driver alone, no CUDA toolkit. Ctrl-C stops it cleanly.\n\nExit status: 0 every \
                      result was right, 1 one was not, 2 it could not run."
    )]
    Stress(StressArgs),
    /// Cut GPUs into MIG instances by layouts, and keep the cut over boots
    #[command(
        long_about = "Cut GPUs into MIG instances by layouts, and keep the cut over boots.\n\nLayouts have the names that \
                      nvidia-mig-parted's users know (all-1g.10gb, all-balanced, all-disabled), or are written out \
                      (3g.40gb,1g.10gb*4), or come from its config.yaml (--config). Whoever uses a card is named first. \
                      A small unit cuts again at each boot, before containers start; thruway mig undo takes it all back."
    )]
    Mig {
        #[command(subcommand)]
        verb: MigVerb,
    },
    /// Promise a GPU to the host, a VM, containers or pods; every floor then keeps it from the others
    Assign(AssignArgs),
    /// Show what would be changed, on all floors of this machine
    Plan(WholePlanArgs),
    /// Carry a plan out: shows it first and asks
    Apply(ApplyArgs),
    /// Look again at what was applied: effective, pending or broken
    Verify,
    /// Take the newest change (or change N) back
    Undo(UndoArgs),
    /// Take a GPU the whole way, from slot to app, by one file: over ssh, floor by floor
    #[command(long_about = up::UP)]
    Up(UpArgs),
    /// Take all that up did back, last floor first
    #[command(long_about = up::DOWN)]
    Down(DownArgs),
    /// The file that up walks by: made by asking and looking, shown, drawn
    Way {
        #[command(subcommand)]
        verb: WayVerb,
    },
    /// List the changes made to this machine
    Log(LogArgs),
    /// Judge the boot that a change waited for: what the boot guard's unit runs (plan --guard)
    Guard(GuardArgs),
    /// Record this machine, read-only and redacted, into one file
    Capture {
        /// The file to write
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
        /// Keep serial numbers, MACs, UUIDs, host names, addresses and tokens
        #[arg(long)]
        no_redact: bool,
    },
    /// Explain a check, or the known errors in a log: thruway explain < any.log
    #[command(
        long_about = "Explain a check: why it matters, what people see, what to do. Or, with a log on standard input or by \
                      --log, the error texts in it that thruway knows: what happened, the line, the fix, and which check \
                      confirms it.\n\nExit status for a log: 0 something known was found, 1 nothing known, 2 could not read."
    )]
    Explain {
        /// The check, e.g. host/group-shared; none: list all, or explain what is on standard input
        #[arg(value_name = "ID")]
        id: Option<String>,
        /// A log: of QEMU, libvirt, a Proxmox VE task, the kernel, docker, kubelet, ffmpeg; - is standard input
        #[arg(long, value_name = "FILE", conflicts_with_all = ["id", "markdown"])]
        log: Option<PathBuf>,
        /// The page of every check as Markdown (docs/checks.md)
        #[arg(long, hide = true)]
        markdown: bool,
    },
    /// Watch the whole way on simulated machines: no root, no hardware
    Demo(DemoArgs),
    /// Boot a QEMU machine with a fake NVIDIA card, and run this thruway in it: no hardware, no KVM
    Lab(LabArgs),
    /// The host floor: IOMMU, VFIO, boot loader
    Host {
        #[command(subcommand)]
        verb: HostVerb,
    },
    /// The VM floor: Proxmox VE, libvirt, QEMU
    Vm {
        #[command(subcommand)]
        verb: VmVerb,
    },
    /// The guest floor: the driver
    Guest {
        #[command(subcommand)]
        verb: GuestVerb,
    },
    /// The container floor: engines and CDI
    Container {
        #[command(subcommand)]
        verb: ContainerVerb,
    },
    /// The cluster floor: Kubernetes
    #[command(visible_alias = "cluster")]
    Kube {
        #[command(subcommand)]
        verb: KubeVerb,
    },
    /// The node agent and its words: run, labels, discover, cordon, doctor (thruway-node)
    #[command(disable_help_flag = true)]
    Node(Words),
    /// The app floor: Jellyfin
    App {
        #[command(subcommand)]
        verb: AppVerb,
    },
    /// CDI specs: what a container is given of a card and its driver
    Cdi {
        #[command(subcommand)]
        verb: CdiVerb,
    },
    /// Print every command as Markdown (docs/commands.md)
    #[command(hide = true)]
    Commands {
        /// Say of a command line whether the grammar takes it, and run nothing
        #[arg(long, num_args = 1.., value_name = "WORDS", allow_hyphen_values = true)]
        parse: Vec<String>,
    },
    /// Print a completion script for your shell
    Completions { shell: clap_complete::Shell },
    /// Print the man page, or write every command's
    Man {
        /// Write the pages of all commands, and of the programs beside this one, into this directory
        #[arg(long, value_name = "DIR")]
        all: Option<PathBuf>,
    },
}

#[derive(Args, Debug, Clone)]
pub struct AssignArgs {
    /// The card: its address, number (as nvidia-smi counts), UUID, or a part of its name
    #[arg(value_name = "GPU")]
    pub gpu: String,
    /// Who may have it: host, vm:ID, containers, pods; nobody takes the promise back
    #[arg(value_name = "TO")]
    pub to: String,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    /// Show what would be written and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Args, Debug, Clone, Default)]
pub struct LogArgs {
    /// Only what still stands beyond thruway's own notes: what would be left here without thruway. Exit status 1 where
    /// something does, 0 where nothing does
    #[arg(long)]
    pub standing: bool,
}

#[derive(Args, Debug, Clone, Default)]
pub struct GuardArgs {
    /// How long the network may take to come back
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub wait: u64,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Args, Debug, Clone, Default)]
pub struct DemoArgs {
    /// Go on by key
    #[arg(long)]
    pub step: bool,
    /// List the simulated machines
    #[arg(long)]
    pub list: bool,
    /// Play this scene in place of the built-in one
    #[arg(long, value_name = "FILE")]
    pub script: Option<PathBuf>,
    /// Lay a simulated machine out as a tree in an empty directory, for --root
    #[arg(long, num_args = 2, value_names = ["BOX", "DIR"])]
    pub build: Option<Vec<String>>,
    /// Let something happen to machines that were laid out by --build: boot DIR; start HOST-DIR VMID GUEST-DIR; stop HOST-DIR
    /// VMID; apt DIR PACKAGES; film DIR
    #[arg(long, num_args = 1.., value_names = ["EVENT", "WORDS"], conflicts_with_all = ["build", "list", "script"])]
    pub event: Option<Vec<String>>,
}

#[derive(Args, Debug, Clone, Default)]
pub struct LabArgs {
    #[command(subcommand)]
    pub verb: Option<LabVerb>,
    /// A whole Debian host: GRUB, doctor, plan, apply, reboot, verify, undo, reboot; minutes, and root the first time
    #[arg(long, conflicts_with = "nested")]
    pub full: bool,
    /// QEMU in QEMU: the card goes to a guest of the lab's host; starts that fail are staged first
    #[arg(long)]
    pub nested: bool,
    /// Keep the downloaded packages and the Debian disk here; without it, thruway/lab in the user's cache
    #[arg(long, value_name = "DIR", global = true)]
    pub cache: Option<PathBuf>,
    /// Give up when the machine has run so long [default: 150, with --nested 400, with --full 1800, up 2400, up --cut 3600]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=7200), global = true)]
    pub limit: Option<u64>,
}

#[derive(Subcommand, Debug, Clone)]
pub enum LabVerb {
    /// The whole way by `thruway up` over SSH: host, reboot, VM, guest, container; then `thruway down`. Minutes, and root
    /// the first time
    Up {
        /// Cut the host's power once while `thruway up` is at work, and go up again: so many seconds after its start, or
        /// when chance has it
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true)]
        cut: Option<Option<u64>>,
        /// Where the simulated driver's libraries are (libsimnvml.so and its sisters); without it, beside this program
        #[arg(long, value_name = "DIR")]
        libraries: Option<PathBuf>,
    },
}

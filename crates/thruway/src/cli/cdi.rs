//! The arguments of `thruway cdi`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

#[derive(Subcommand, Debug)]
pub enum CdiVerb {
    /// Print or write the CDI spec made from this machine's driver and cards
    #[command(
        long_about = "Print or write the CDI spec made from this machine's driver and cards.\n\nNodes stand in it by path alone, so \
                      that a reboot cannot make it wrong. With thruway-hook installed each library is one mount and the hook \
                      makes its names; without it the spec needs no hook. thruway cdi refresh keeps one written and true."
    )]
    Generate(GenerateArgs),
    /// List the devices that the specs on this machine define, which file each is from, and what is hidden
    List {
        /// Look in this directory; may be repeated, a later one goes before [default: /etc/cdi, /var/run/cdi]
        #[arg(long, value_name = "DIR")]
        spec_dir: Vec<String>,
    },
    /// Say what is wrong with the specs on this machine, and with each other; exit status 1 where something is
    Check {
        /// Only these files [default: all in the directories of specs]
        #[arg(value_name = "FILE")]
        files: Vec<String>,
        /// Look in this directory; may be repeated, a later one goes before [default: /etc/cdi, /var/run/cdi]
        #[arg(long, value_name = "DIR")]
        spec_dir: Vec<String>,
    },
    /// Write the specs that fit this machine now, and driver.json; with --watch, again whenever it changes
    #[command(
        long_about = "Write the specs that fit this machine now, and driver.json; with --watch, again whenever it changes.\n\n\
                      Files that say the right thing already are not touched; what is written comes whole, by rename. A card \
                      promised to a VM (thruway assign) or bound to vfio-pci leaves the specs at once; without a driver they \
                      go. Files of other generators that define the same devices are named and left alone."
    )]
    Refresh(RefreshArgs),
    /// Rewrite a spec for another place
    Transform {
        #[command(subcommand)]
        verb: TransformVerb,
    },
}

#[derive(Subcommand, Debug)]
pub enum TransformVerb {
    /// Move every path below one directory to another: for a driver's root that is mounted elsewhere
    Root(RootArgs),
}

#[derive(Args, Debug, Clone)]
pub struct RootArgs {
    /// The directory that paths are below now
    // of the name and type of the global one, in whose place it stands here: no machine is looked at
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub from: PathBuf,
    /// The directory that they are to be below
    #[arg(long, value_name = "DIR")]
    pub to: String,
    /// Which paths: those on the host (mounts, nodes, hooks), or those in the container
    #[arg(long, value_enum, default_value_t)]
    pub relative_to: RelativeTo,
    /// The spec, .json or .yaml; - is standard input
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub input: String,
    /// Where to write it; - is standard output
    #[arg(long, short, value_name = "FILE", default_value = "-")]
    pub output: String,
}

#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RelativeTo {
    #[default]
    Host,
    Container,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormWish {
    Json,
    Yaml,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameStrategy {
    /// 0, 1, and 0:1 for a part
    Index,
    /// GPU-…, MIG-…
    Uuid,
    /// gpu0, mig0:1
    TypeIndex,
}

#[derive(Args, Debug, Clone, Default)]
pub struct GenerateArgs {
    /// Write it to this file (mode 0644, whole or not at all) and not to standard output
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// The form [default: by the output's extension, else JSON]
    #[arg(long, value_enum, value_name = "FORM")]
    pub format: Option<FormWish>,
    /// What the spec is of: auto, nvml, wsl, csv (Tegra), management, imex, gds, gdrcopy, mofed, nvswitch
    #[arg(long, value_name = "MODE", default_value = "auto")]
    pub mode: String,
    /// The kind's vendor [default: nvidia.com, or what the mode goes by]
    #[arg(long, value_name = "VENDOR")]
    pub vendor: Option<String>,
    /// The kind's class [default: gpu, or what the mode goes by]
    #[arg(long, value_name = "CLASS")]
    pub class: Option<String>,
    /// Only these devices, by index, UUID or G:M; may be repeated
    #[arg(long, value_name = "ID")]
    pub device_id: Vec<String>,
    /// Tegra: read this list in place of NVIDIA's; may be repeated
    #[arg(long = "csv.file", value_name = "FILE")]
    pub csv_file: Vec<String>,
    /// Tegra: pass over paths of this pattern; may be repeated
    #[arg(long = "csv.ignore-pattern", value_name = "PATTERN")]
    pub csv_ignore: Vec<String>,
    /// Only the files of these sets, as NVIDIA_DRIVER_CAPABILITIES has them: compute,utility,video,graphics,display,ngx,compat32
    #[arg(long, value_name = "LIST")]
    pub capabilities: Option<String>,
    #[command(flatten)]
    pub how: SpecArgs,
}

/// What every spec goes by.
#[derive(Args, Debug, Clone, Default)]
pub struct SpecArgs {
    /// How devices are called; may be repeated [default: index and uuid]
    #[arg(long, value_enum, value_name = "STRATEGY")]
    pub device_name_strategy: Vec<NameStrategy>,
    /// No device that is all of them
    #[arg(long)]
    pub no_all_device: bool,
    /// Where the driver's files are, if not in this machine's own root: a driver container's /run/nvidia/driver
    #[arg(long, value_name = "DIR")]
    pub driver_root: Option<String>,
    /// Where the device nodes are, if not in this machine's own /dev: DIR/dev
    #[arg(long, value_name = "DIR")]
    pub dev_root: Option<String>,
    /// The hook that the spec names, or none [default: /usr/bin/thruway-hook, where it is installed]
    #[arg(long, value_name = "PATH")]
    pub hook: Option<String>,
    /// Leave out one of the hook's works: create-symlinks, update-ldcache, enable-cuda-compat, disable-device-node-modification,
    /// update-application-profile, all; may be repeated
    #[arg(long, value_name = "NAME")]
    pub disable_hook: Vec<String>,
    /// Name no groups for nodes that not everybody may open, so that engines which know no CDI 0.7 read it
    #[arg(long)]
    pub no_additional_gids: bool,
}

#[derive(Args, Debug, Clone, Default)]
pub struct RefreshArgs {
    /// Stay, and write again whenever driver, cards, MIG or the ledger change
    #[arg(long, conflicts_with = "dry_run")]
    pub watch: bool,
    /// Where the specs go
    #[arg(long, value_name = "DIR", default_value = ::cdi::OUTPUT_DIR)]
    pub output_dir: String,
    /// Say what would be written and removed, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Make the driver's control nodes that are missing: nvidiactl, nvidia-uvm, nvidia-uvm-tools, nvidia-modeset
    #[arg(long)]
    pub create_nodes: bool,
    /// Make /dev/char links to the driver's nodes, without which systemctl daemon-reload takes GPUs from containers
    #[arg(long)]
    pub dev_char_links: bool,
    /// With --watch: look every so often at what announces no change (MIG, procfs)
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub every: u64,
    #[command(flatten)]
    pub how: SpecArgs,
}

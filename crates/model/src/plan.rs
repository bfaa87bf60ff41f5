//! Plans as data: what will be changed, why, at what risk, when it takes effect and how it goes back.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use serde::{Deserialize, Serialize};

use crate::{Bdf, Digest, Intent, Layer, MigOp, PackagesOp, PciId, RunFileOp};

/// The version of the plan's JSON form. A reader refuses a newer one.
pub const PLAN_SCHEMA: u32 = 1;

/// An ordered list of changes, built from the facts it names and refused when they have changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub schema: u32,
    /// The floors whose planners wrote this.
    pub layers: Vec<Layer>,
    /// What was asked for or inferred, in words: "give 0000:26:00.0 (GeForce GT 1030) to VM 100".
    pub intent: Vec<String>,
    /// The same as data: what verify and the check for staleness plan again from.
    pub asked: Intent,
    pub based_on: Basis,
    pub changes: Vec<Change>,
    /// What a human must do, know or lose: "VM 100 must be stopped and started".
    pub notes: Vec<String>,
    /// Why (part of) the intent is refused. A plan with a refusal can be read, not applied.
    pub refusals: Vec<Refusal>,
}

impl Plan {
    /// An empty plan of one floor, based on these facts (name → value).
    pub fn new(layer: Layer, asked: &Intent, facts: BTreeMap<String, String>) -> Self {
        Plan {
            schema: PLAN_SCHEMA,
            layers: vec![layer],
            intent: Vec::new(),
            asked: asked.clone(),
            based_on: Basis::new(facts),
            changes: Vec::new(),
            notes: Vec::new(),
            refusals: Vec::new(),
        }
    }

    /// Nothing to do, and nothing refused.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.refusals.is_empty()
    }

    /// Appends the next floor's plan. Regenerations that both ask for are kept once, at the later place, so that
    /// `update-initramfs` runs after all that it reads was written.
    pub fn join(mut self, later: Plan) -> Plan {
        self.layers.extend(later.layers.iter().filter(|l| !self.layers.contains(l)).copied().collect::<Vec<_>>());
        self.intent.extend(later.intent);
        let mut facts = self.based_on.facts;
        facts.extend(later.based_on.facts);
        self.based_on = Basis::new(facts);
        let again =
            |change: &Change| matches!(change.op, Op::Regenerate(_)) && later.changes.iter().any(|c| c.op == change.op);
        self.changes.retain(|change| !again(change));
        self.changes.extend(later.changes);
        self.notes.extend(later.notes);
        self.refusals.extend(later.refusals);
        self
    }
}

/// The facts a plan was built from, readable, and their digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Basis {
    pub digest: Digest,
    pub facts: BTreeMap<String, String>,
}

impl Basis {
    pub fn new(facts: BTreeMap<String, String>) -> Self {
        let mut text = String::new();
        for (name, value) in &facts {
            text.push_str(name);
            text.push('\0');
            text.push_str(value);
            text.push('\n');
        }
        Basis { digest: Digest::of(text.as_bytes()), facts }
    }

    /// The facts that differ, as (name, then, now); an absent one is the empty text.
    pub fn changed_since(&self, now: &Basis) -> Vec<(String, String, String)> {
        let names: std::collections::BTreeSet<&String> = self.facts.keys().chain(now.facts.keys()).collect();
        names
            .into_iter()
            .filter_map(|name| {
                let then = self.facts.get(name).cloned().unwrap_or_default();
                let now = now.facts.get(name).cloned().unwrap_or_default();
                (then != now).then(|| (name.clone(), then, now))
            })
            .collect()
    }
}

/// Why an intent is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The check that says no.
    pub because: String,
    pub says: String,
    /// The way out, e.g. the flag that names the loss and so allows it.
    pub instead: String,
}

/// One step: the unit of writing ahead, of verification and of undo.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub layer: Layer,
    /// A few words: "hold 26:00.0 and 26:00.1 for vfio-pci at boot".
    pub title: String,
    pub op: Op,
    pub expects: Before,
    /// Ids of the checks that ask for this.
    pub because: Vec<String>,
    pub risk: Vec<Risk>,
    pub effective: Effective,
    pub undo: Undo,
}

/// What can be done. Closed: the compiler finds the missing undo.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Create or replace a file. `mode` is for a new file (e.g. 0o644); an existing file keeps its own mode, owner
    /// and xattrs. Missing parent directories are made (0755) and taken back by undo.
    WriteFile {
        path: String,
        content: Content,
        mode: u32,
    },
    RemoveFile {
        path: String,
    },
    /// Make a symbolic link where nothing is. `target` is written as it is. Missing parent directories are made; undo
    /// removes link and directories.
    Link {
        path: String,
        target: String,
    },
    /// Write a value to a sysfs attribute. Undo writes `back`.
    Sysfs {
        path: String,
        value: String,
        back: String,
    },
    /// systemd: what to do with a unit. Undo does the opposite verb.
    Service {
        unit: String,
        verb: ServiceVerb,
    },
    /// Re-run a generator over the inputs as they are now. Undo restores the inputs first, then runs it again.
    Regenerate(Tool),
    /// Kernel arguments by the boot loader's own program, where the files are that program's and not ours to edit.
    /// Undo adds what was removed and removes what was added; both are no error where it is so already.
    KernelArgs {
        by: ArgsTool,
        add: Vec<String>,
        remove: Vec<String>,
    },
    /// `qm set VMID …` on a live Proxmox VE node. Undo sets the old values back.
    Proxmox {
        vmid: u32,
        set: Vec<(String, String)>,
        delete: Vec<String>,
        digest: String,
        before: Vec<(String, String)>,
    },
    /// A named PCI device of a Proxmox VE cluster, made: POST /cluster/mapping/pci. Undo removes it, where it still is as
    /// made and no VM names it.
    ProxmoxMapping {
        /// "gpu-26-00".
        id: String,
        /// Its entries: "node=pve,path=0000:26:00,id=10de:1d01,subsystem-id=1458:375c,iommugroup=14".
        map: Vec<String>,
    },
    /// Settings of one Jellyfin server by its REST API. Undo sets the old values back, and nothing else.
    Jellyfin(JellyfinOp),
    /// Server-side apply or label of one Kubernetes object. Undo applies `before`.
    Kube(Box<KubeOp>),
    /// Packages by the system's manager. Undo removes exactly what this step brought, dependencies too.
    Packages(PackagesOp),
    /// NVIDIA's own installer. Undo runs the uninstaller that it leaves.
    RunFile(RunFileOp),
    /// A PCI function changes hands now, without a reboot. Undo gives it back to `from`.
    Bind(BindOp),
    /// A card is cut into MIG instances, or made whole. Undo cuts it as it was.
    Mig(MigOp),
    /// SIGTERM to one process, which must then go. What was ended stays ended: undo leaves it be.
    EndProcess {
        pid: u32,
        /// As /proc/PID/comm has it.
        name: String,
        /// Field 22 of /proc/PID/stat, clock ticks since boot: tells a reused number from the process that was meant.
        started: u64,
    },
}

/// A file's bytes in a plan: text where it is UTF-8, base64 where not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    Text(String),
    Base64(String),
}

impl Content {
    pub fn from_bytes(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Content::Text(text.to_owned()),
            Err(_) => Content::Base64(base64::engine::general_purpose::STANDARD.encode(bytes)),
        }
    }

    /// The bytes; `None` where the base64 of a hand-edited plan is broken.
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        match self {
            Content::Text(text) => Some(text.clone().into_bytes()),
            Content::Base64(text) => base64::engine::general_purpose::STANDARD.decode(text).ok(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceVerb {
    Enable,
    Disable,
    Start,
    Stop,
    Restart,
    Reload,
    /// `systemctl daemon-reload`; the unit's name is empty.
    DaemonReload,
}

impl ServiceVerb {
    /// The verb as systemctl spells it.
    pub fn word(self) -> &'static str {
        match self {
            ServiceVerb::Enable => "enable",
            ServiceVerb::Disable => "disable",
            ServiceVerb::Start => "start",
            ServiceVerb::Stop => "stop",
            ServiceVerb::Restart => "restart",
            ServiceVerb::Reload => "reload",
            ServiceVerb::DaemonReload => "daemon-reload",
        }
    }
}

/// The generators that we run. The command line of each stands in `Tool::argv`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tool {
    /// Debian's name for grub-mkconfig; on Proxmox VE it feeds the ESPs too.
    UpdateGrub,
    /// Arch and whoever keeps GRUB's own names.
    GrubMkconfig,
    /// GRUB under Fedora's and SUSE's names.
    Grub2Mkconfig,
    /// SUSE's front for whichever boot loader is installed (perl-bootloader).
    UpdateBootloader,
    /// SUSE's entries on an ESP, one a snapshot.
    Sdbootutil,
    /// Debian's initramfs-tools, all installed kernels.
    UpdateInitramfs,
    Dracut,
    Mkinitcpio,
    Booster,
    /// The initramfs of an ostree deployment, made on this machine out of its /etc; undo goes back to the one that
    /// came with the image (rpm-ostree(1), initramfs).
    OstreeInitramfs,
    /// `proxmox-boot-tool refresh`: copies kernels and command line to every ESP.
    ProxmoxBootTool,
    UdevReload,
    /// systemd-boot's entries from /etc/kernel/cmdline (`kernel-install add-all` or Debian's hook).
    KernelInstall,
}

impl Tool {
    pub fn argv(&self) -> &'static [&'static str] {
        match self {
            Tool::UpdateGrub => &["update-grub"],
            Tool::GrubMkconfig => &["grub-mkconfig", "-o", "/boot/grub/grub.cfg"],
            Tool::Grub2Mkconfig => &["grub2-mkconfig", "-o", "/boot/grub2/grub.cfg"],
            Tool::UpdateBootloader => &["update-bootloader", "--refresh"],
            Tool::Sdbootutil => &["sdbootutil", "update-all-entries"],
            Tool::UpdateInitramfs => &["update-initramfs", "-u", "-k", "all"],
            Tool::Dracut => &["dracut", "--regenerate-all", "--force"],
            Tool::Mkinitcpio => &["mkinitcpio", "-P"],
            Tool::Booster => &["/usr/lib/booster/regenerate_images"],
            Tool::OstreeInitramfs => &["rpm-ostree", "initramfs", "--enable"],
            Tool::ProxmoxBootTool => &["proxmox-boot-tool", "refresh"],
            Tool::UdevReload => &["udevadm", "control", "--reload"],
            Tool::KernelInstall => &["kernel-install", "add-all"],
        }
    }

    /// What undo runs, once the inputs are restored: the same, for all but one.
    pub fn back(&self) -> &'static [&'static str] {
        match self {
            Tool::OstreeInitramfs => &["rpm-ostree", "initramfs", "--disable"],
            same => same.argv(),
        }
    }
}

/// The programs that keep kernel arguments themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ArgsTool {
    /// Fedora, RHEL and their kin: every loader entry, and the defaults for kernels to come (grubby(8)).
    Grubby,
    /// Pop!_OS: /etc/kernelstub/configuration and the entry made from it.
    Kernelstub,
    /// A new deployment with other arguments (rpm-ostree(1), kargs).
    RpmOstree,
}

impl ArgsTool {
    /// The commands, in order, that add and remove these arguments.
    pub fn commands(self, add: &[String], remove: &[String]) -> Vec<Vec<String>> {
        let one = |program: &str, words: Vec<String>| std::iter::once(program.to_owned()).chain(words).collect();
        match self {
            _ if add.is_empty() && remove.is_empty() => Vec::new(),
            ArgsTool::Grubby => {
                let mut words = vec!["--update-kernel=ALL".to_owned()];
                words.extend((!remove.is_empty()).then(|| format!("--remove-args={}", remove.join(" "))));
                words.extend((!add.is_empty()).then(|| format!("--args={}", add.join(" "))));
                vec![one("grubby", words)]
            }
            // It takes one of the two at a time.
            ArgsTool::Kernelstub => {
                let off = (!remove.is_empty()).then(|| vec!["--delete-options".to_owned(), remove.join(" ")]);
                let on = (!add.is_empty()).then(|| vec!["--add-options".to_owned(), add.join(" ")]);
                off.into_iter().chain(on).map(|words| one("kernelstub", words)).collect()
            }
            ArgsTool::RpmOstree => {
                let off = remove.iter().map(|token| format!("--delete-if-present={token}"));
                let on = add.iter().map(|token| format!("--append-if-missing={token}"));
                let words = std::iter::once("kargs".to_owned()).chain(off).chain(on).collect();
                vec![one("rpm-ostree", words)]
            }
        }
    }

    /// The commands as a reader would paste them.
    pub fn paste(self, add: &[String], remove: &[String]) -> Vec<String> {
        let word = |word: &String| match word.split_once('=') {
            _ if !word.contains(|c: char| c.is_whitespace() || c == '"') => word.clone(),
            Some((name, value)) if name.starts_with("--") => format!("{name}='{value}'"),
            _ => format!("'{word}'"),
        };
        self.commands(add, remove).iter().map(|argv| argv.iter().map(word).collect::<Vec<_>>().join(" ")).collect()
    }
}

/// Some of a Jellyfin server's transcoding settings, changed: /System/Configuration/encoding, which is read and posted
/// as a whole, so that a setting that is not named stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JellyfinOp {
    /// "https://192.0.2.7:8096". No login is ever part of it.
    pub url: String,
    /// Key → value, by the API's names. Only keys that the server itself has answered with.
    pub set: serde_json::Map<String, serde_json::Value>,
    /// The same keys as they were.
    pub before: serde_json::Map<String, serde_json::Value>,
    /// Of the whole object as it was read: another one is not overwritten.
    pub digest: Digest,
}

/// One Kubernetes object, changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KubeOp {
    /// e.g. `v1`, `apps/v1`.
    pub api_version: String,
    pub kind: String,
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    pub name: String,
    pub verb: KubeVerb,
    /// The object as we read it before; `None` where it did not exist.
    pub before: Option<serde_json::Value>,
    /// For Apply: the whole object wanted. For Label: the map of labels (null removes).
    pub body: serde_json::Value,
    /// The change as a diff of YAML, for the reader.
    pub preview: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KubeVerb {
    Apply,
    Label,
    Delete,
}

/// One function, from one driver to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindOp {
    pub bdf: Bdf,
    /// What must sit at the address: a card that was moved is refused.
    pub id: PciId,
    pub from: Hold,
    pub to: Hold,
}

/// Who has a function, and who alone may.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    pub driver: Taker,
    /// `driver_override`: with it only the driver of this name can bind (the kernel's
    /// Documentation/ABI/testing/sysfs-bus-pci). `None`: cleared, "(null)" in sysfs.
    pub forced: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Taker {
    Driver(String),
    /// No driver at all.
    Nobody,
    /// Whichever loaded driver the kernel finds for it. Only in `to`: it says what to do, not what was seen.
    Kernel,
}

impl fmt::Display for Taker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Taker::Driver(name) => f.write_str(name),
            Taker::Nobody => f.write_str("no driver"),
            Taker::Kernel => f.write_str("the kernel's own choice"),
        }
    }
}

impl Hold {
    /// True where `seen` is what this asks for.
    pub fn met_by(&self, seen: &Hold) -> bool {
        let driver = match &self.driver {
            Taker::Kernel => matches!(seen.driver, Taker::Driver(_)),
            other => *other == seen.driver,
        };
        driver && self.forced == seen.forced
    }
}

/// What must hold right before the step, checked under the lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Before {
    /// The file has these bytes.
    File(Digest),
    /// The file (link, directory) is not there.
    NoFile,
    /// The sysfs attribute reads so (trimmed); of a `Bind`, the function's driver as `Taker` is shown.
    Value(String),
    /// Nothing to hold: a regeneration, a reload.
    Nothing,
}

/// What a step may cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Risk {
    /// Takes effect only after a reboot of this machine.
    Reboot,
    /// Something stops working for a while or for good: says what.
    Outage(String),
    /// A boundary is weakened: says which.
    Security(String),
    /// Data that exists nowhere else goes: says what.
    DataLoss(String),
}

/// When a step's effect can be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effective {
    Now,
    NextBoot,
    NextVmStart,
    NextContainer,
}

/// How a step goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Undo {
    /// Same bytes, mode, owner, xattrs, or absence.
    Exact,
    /// An opposite operation, verified by observation; generated files are made again from restored inputs.
    Inverse,
    /// Left as it is, and nothing is the worse for it: a process that was ended.
    Left,
    Irreversible,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_arguments_go_to_each_program_in_its_own_words() {
        let (add, remove) = (vec!["intel_iommu=on".to_owned()], vec!["iommu=off".to_owned()]);
        let paste = |by: ArgsTool| by.paste(&add, &remove);
        assert_eq!(
            paste(ArgsTool::Grubby),
            ["grubby --update-kernel=ALL --remove-args=iommu=off --args=intel_iommu=on"]
        );
        assert_eq!(
            paste(ArgsTool::Kernelstub),
            ["kernelstub --delete-options iommu=off", "kernelstub --add-options intel_iommu=on"]
        );
        assert_eq!(
            paste(ArgsTool::RpmOstree),
            ["rpm-ostree kargs --delete-if-present=iommu=off --append-if-missing=intel_iommu=on"]
        );
        let two = vec!["a=b".to_owned(), "c".to_owned()];
        assert_eq!(ArgsTool::Grubby.paste(&two, &[]), ["grubby --update-kernel=ALL --args='a=b c'"]);
        assert_eq!(ArgsTool::Kernelstub.paste(&two, &[]), ["kernelstub --add-options 'a=b c'"]);
        assert_eq!(ArgsTool::RpmOstree.commands(&[], &[]), Vec::<Vec<String>>::new());
    }
}

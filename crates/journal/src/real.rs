//! The real hands: run the generators, systemctl, qm and kubectl, write sysfs.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use model::{ArgsTool, Bdf, BindOp, Hold, KubeOp, KubeVerb, Op, PackagesOp, ServiceVerb, Tool, UNINSTALLER};

use crate::bind::{self, Binder};
use crate::run::run;
use crate::{HandError, Hands, Stock, mig, process};

/// Acts on the live machine (`/`) or, for generators, inside a tree by chroot.
pub struct RealHands {
    root: PathBuf,
    /// For each write that hands a PCI function over.
    limit: Duration,
    /// Functions of which a write hangs: every further one would wait for the same lock.
    hung: RefCell<BTreeSet<Bdf>>,
    /// Hears what a program that takes long is doing.
    tell: Box<dyn Fn(&str)>,
}

/// Enters a tree in a mount namespace of its own, so that nothing stays mounted whatever happens: grub-probe and
/// update-initramfs look at /dev, /proc and /sys.
const ENTER: &str = r#"set -e
root=$1; shift
for dir in dev proc sys; do
  mkdir -p "$root/$dir"
  mount --rbind "/$dir" "$root/$dir"
done
exec chroot "$root" "$@"
"#;

impl RealHands {
    pub fn new(root: &Path) -> Self {
        RealHands { root: root.to_owned(), limit: bind::LIMIT, hung: RefCell::default(), tell: Box::new(|_| {}) }
    }

    /// How long each write that hands a PCI function over may take; [`bind::LIMIT`] unless told otherwise.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Package managers work for minutes: `tell` hears every few seconds what they are at.
    pub fn telling(mut self, tell: impl Fn(&str) + 'static) -> Self {
        self.tell = Box::new(tell);
        self
    }

    pub(crate) fn tell(&self, says: &str) {
        (self.tell)(says);
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    fn live(&self) -> bool {
        self.root == Path::new("/")
    }

    fn tool(&self, tool: &Tool, argv: &[&str]) -> Result<(), HandError> {
        if *tool == Tool::UdevReload && !self.live() {
            // Nothing runs in a tree; its next boot reads the rules.
            return Ok(());
        }
        self.program(argv)
    }

    /// A program of this machine, or of the tree, by chroot.
    fn program(&self, argv: &[&str]) -> Result<(), HandError> {
        let (mut command, words) = self.command(argv)?;
        run(&mut command, words, None)
    }

    /// The command that runs a program of this machine, or of the tree, by chroot; and how a report calls it.
    pub(crate) fn command(&self, argv: &[&str]) -> Result<(Command, String), HandError> {
        let words = self.named(argv);
        if self.live() {
            let Some((program, rest)) = argv.split_first() else {
                return Err(HandError::NotHere { what: "nothing".into(), why: "no program is named".into() });
            };
            let mut command = Command::new(program);
            command.args(rest);
            return Ok((command, words));
        }
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "--", "sh", "-c", ENTER, "enter"]);
        command.arg(&self.root).args(argv);
        Ok((command, words))
    }

    /// A command as a report calls it.
    pub(crate) fn named(&self, argv: &[&str]) -> String {
        let words = argv.join(" ");
        if self.live() { words } else { format!("{words} in {}", self.root.display()) }
    }

    fn kernel_args(&self, by: ArgsTool, add: &[String], remove: &[String]) -> Result<(), HandError> {
        if by == ArgsTool::RpmOstree {
            // It speaks to its daemon about the booted deployment.
            self.here("rpm-ostree kargs")?;
        }
        by.commands(add, remove).iter().try_for_each(|argv| {
            let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
            self.program(&argv)
        })
    }

    fn service(&self, unit: &str, verb: ServiceVerb) -> Result<(), HandError> {
        let word = verb.word();
        let mut command = Command::new("systemctl");
        if !self.live() {
            // Enabling is links in the tree; nothing runs there that could be started.
            if !matches!(verb, ServiceVerb::Enable | ServiceVerb::Disable) {
                return Ok(());
            }
            command.arg(format!("--root={}", self.root.display()));
        }
        command.arg(word);
        if !unit.is_empty() {
            command.arg("--").arg(unit);
        }
        run(&mut command, format!("systemctl {word} {unit}").trim_end().to_owned(), None)
    }

    fn sysfs(&self, path: &str, value: &str) -> Result<(), HandError> {
        let full = self.root.join(path.trim_start_matches('/'));
        let io = |source| HandError::Io { path: path.to_owned(), source };
        let mut file = std::fs::OpenOptions::new().write(true).open(full).map_err(io)?;
        // One write: sysfs takes each write as a whole value.
        file.write_all(value.as_bytes()).map_err(io)
    }

    fn bind(&self, op: &BindOp, to: &Hold) -> Result<(), HandError> {
        self.here(&format!("giving {} to {}", op.bdf, to.driver))?;
        if self.hung.borrow().contains(&op.bdf) {
            let what = format!("giving {} back to {}", op.bdf, to.driver);
            let why = "the write before it still hangs; thruway finishes this on its next run, once that is through";
            return Err(HandError::NotHere { what, why: why.into() });
        }
        let writer = ["cat".to_owned()];
        let done = Binder { root: &self.root, limit: self.limit, writer: &writer }.carry(op, to);
        if let Err(HandError::Hung { stuck: true, .. }) = &done {
            self.hung.borrow_mut().insert(op.bdf);
        }
        done
    }

    pub(crate) fn here(&self, what: &str) -> Result<(), HandError> {
        if self.live() {
            return Ok(());
        }
        let why = format!("{} is a tree, not a running machine", self.root.display());
        Err(HandError::NotHere { what: what.to_owned(), why })
    }

    fn qm(
        &self,
        vmid: u32,
        set: &[(String, String)],
        delete: &[String],
        digest: Option<&str>,
    ) -> Result<(), HandError> {
        self.here("qm set")?;
        let mut command = Command::new("qm");
        command.args(["set", &vmid.to_string()]);
        for (key, value) in set {
            command.arg(format!("--{key}")).arg(value);
        }
        if !delete.is_empty() {
            command.args(["--delete", &delete.join(",")]);
        }
        if let Some(digest) = digest.filter(|digest| !digest.is_empty()) {
            command.args(["--digest", digest]);
        }
        run(&mut command, format!("qm set {vmid}"), None)
    }

    fn kubectl(&self, argv: &[String], input: Option<&serde_json::Value>) -> Result<(), HandError> {
        self.here("kubectl")?;
        let words = format!("kubectl {}", argv.join(" "));
        run(Command::new("kubectl").args(argv), words, input.map(ToString::to_string))
    }

    fn label(&self, op: &KubeOp, labels: &serde_json::Map<String, serde_json::Value>) -> Result<(), HandError> {
        let mut argv = vec!["label".to_owned(), "--overwrite".to_owned()];
        if !op.namespace.is_empty() {
            argv.push(format!("--namespace={}", op.namespace));
        }
        argv.push(op.kind.to_lowercase());
        argv.push(op.name.clone());
        argv.extend(labels.iter().map(|(key, value)| match value.as_str() {
            Some(value) => format!("{key}={value}"),
            None => format!("{key}-"),
        }));
        self.kubectl(&argv, None)
    }

    fn delete(&self, op: &KubeOp) -> Result<(), HandError> {
        let mut argv = vec!["delete".to_owned(), op.kind.to_lowercase(), op.name.clone(), "--ignore-not-found".into()];
        if !op.namespace.is_empty() {
            argv.push(format!("--namespace={}", op.namespace));
        }
        self.kubectl(&argv, None)
    }

    fn kube(&self, op: &KubeOp) -> Result<(), HandError> {
        match op.verb {
            // The body carries the resourceVersion that was read: a replace of a newer object is refused.
            KubeVerb::Apply if op.before.is_some() => self.kubectl(&words(["replace", "-f", "-"]), Some(&op.body)),
            KubeVerb::Apply => self.kubectl(&words(["create", "-f", "-"]), Some(&op.body)),
            KubeVerb::Label => self.label(op, op.body.as_object().unwrap_or(&serde_json::Map::new())),
            KubeVerb::Delete => self.delete(op),
        }
    }

    fn unkube(&self, op: &KubeOp) -> Result<(), HandError> {
        match (op.verb, &op.before) {
            (KubeVerb::Label, before) => {
                let empty = serde_json::Map::new();
                let old = before.as_ref().and_then(|b| b.pointer("/metadata/labels")).and_then(|l| l.as_object());
                let back = op.body.as_object().unwrap_or(&empty).keys().map(|key| {
                    (key.clone(), old.and_then(|old| old.get(key)).cloned().unwrap_or(serde_json::Value::Null))
                });
                self.label(op, &back.collect())
            }
            (_, None) => self.delete(op),
            (_, Some(before)) => {
                // Since we wrote it, its resourceVersion is another; the old one would be refused.
                let mut before = before.clone();
                if let Some(meta) = before.pointer_mut("/metadata").and_then(|m| m.as_object_mut()) {
                    for key in ["resourceVersion", "uid", "creationTimestamp", "managedFields", "generation"] {
                        meta.remove(key);
                    }
                }
                let verb = if op.verb == KubeVerb::Delete { "create" } else { "replace" };
                self.kubectl(&words([verb, "-f", "-"]), Some(&before))
            }
        }
    }
}

fn api_only(id: &str) -> HandError {
    HandError::NotHere {
        what: format!("the mapping {id}"),
        why: "it is made by Proxmox VE's API: say --pve https://HOST:8006".into(),
    }
}

impl Hands for RealHands {
    fn act(&self, op: &Op) -> Result<(), HandError> {
        match op {
            Op::WriteFile { path, .. } | Op::RemoveFile { path } | Op::Link { path, .. } => Err(file_op(path)),
            Op::Sysfs { path, value, .. } => self.sysfs(path, value),
            Op::Service { unit, verb } => self.service(unit, *verb),
            Op::Regenerate(tool) => self.tool(tool, tool.argv()),
            Op::KernelArgs { by, add, remove } => self.kernel_args(*by, add, remove),
            Op::Proxmox { vmid, set, delete, digest, .. } => self.qm(*vmid, set, delete, Some(digest)),
            Op::ProxmoxMapping { id, .. } => Err(api_only(id)),
            Op::Jellyfin(op) => Err(HandError::jellyfin(&op.url)),
            Op::Packages(op) => self.install_packages(op),
            Op::RunFile(op) => self.run_file(op),
            Op::Kube(op) => self.kube(op),
            Op::Bind(op) => self.bind(op, &op.to),
            Op::Mig(op) => self.here("cutting a card by MIG").and_then(|()| mig::carry(op, &op.to, &op.from)),
            Op::EndProcess { pid, name, started } => {
                self.here(&format!("ending process {pid}"))?;
                process::end(*pid, name, *started)
            }
        }
    }

    fn take_back(&self, op: &Op) -> Result<(), HandError> {
        match op {
            Op::WriteFile { path, .. } | Op::RemoveFile { path } | Op::Link { path, .. } => Err(file_op(path)),
            Op::Sysfs { path, back, .. } => self.sysfs(path, back),
            Op::Service { unit, verb } => self.service(unit, opposite(*verb)),
            Op::Regenerate(tool) => self.tool(tool, tool.back()),
            Op::KernelArgs { by, add, remove } => self.kernel_args(*by, remove, add),
            Op::Proxmox { vmid, set, before, .. } => {
                let was = |key: &String| before.iter().any(|(k, _)| k == key);
                let gone: Vec<String> = set.iter().map(|(key, _)| key.clone()).filter(|key| !was(key)).collect();
                self.qm(*vmid, before, &gone, None)
            }
            Op::ProxmoxMapping { id, .. } => Err(api_only(id)),
            Op::Jellyfin(op) => Err(HandError::jellyfin(&op.url)),
            // The journal asks for this with what its log says of the time before.
            Op::Packages(_) => Ok(()),
            Op::RunFile(op) => self.unrun_file(op),
            Op::Kube(op) => self.unkube(op),
            Op::Bind(op) => self.bind(op, &op.from),
            Op::Mig(op) => self.here("cutting a card by MIG").and_then(|()| mig::carry(op, &op.from, &op.to)),
            // What was ended stays ended.
            Op::EndProcess { .. } => Ok(()),
        }
    }

    fn stock(&self, op: &PackagesOp) -> Result<Stock, HandError> {
        self.stock_of(op)
    }

    fn unstock(&self, op: &PackagesOp, before: &Stock) -> Result<Vec<String>, HandError> {
        self.remove_packages(op, before)
    }

    fn reboot(&self) -> Result<(), HandError> {
        self.here("a reboot")?;
        run(Command::new("systemctl").arg("reboot"), "systemctl reboot".to_owned(), None)
    }

    fn holds(&self, op: &Op) -> Option<bool> {
        // Whatever is no longer as it was took effect, be it half of it.
        if let Op::Mig(op) = op {
            return if self.live() { mig::now(op).map(|now| now != op.from) } else { None };
        }
        if let Op::RunFile(_) = op {
            // its uninstaller, or the list of what it replaced, which it writes first
            let there = |path: &str| self.root.join(path.trim_start_matches('/')).exists();
            return Some(there(UNINSTALLER) || there("/var/lib/nvidia/log"));
        }
        let Op::Service { unit, verb } = op else { return None };
        let (question, yes) = match verb {
            ServiceVerb::Start => ("is-active", true),
            ServiceVerb::Stop => ("is-active", false),
            ServiceVerb::Enable => ("is-enabled", true),
            ServiceVerb::Disable => ("is-enabled", false),
            ServiceVerb::Restart | ServiceVerb::Reload | ServiceVerb::DaemonReload => return None,
        };
        let mut command = Command::new("systemctl");
        if !self.live() {
            if question == "is-active" {
                return None;
            }
            command.arg(format!("--root={}", self.root.display()));
        }
        let output = command.args([question, "--", unit]).env("LC_ALL", "C").stdin(Stdio::null()).output().ok()?;
        state(question, String::from_utf8_lossy(&output.stdout).trim()).map(|is| is == yes)
    }
}

/// `systemctl is-active` and `is-enabled` in words (systemctl(1)); `None` for states that are neither yes nor no.
fn state(question: &str, word: &str) -> Option<bool> {
    match (question, word) {
        ("is-active", "active" | "reloading") | ("is-enabled", "enabled") => Some(true),
        ("is-active", "inactive" | "failed") | ("is-enabled", "disabled") => Some(false),
        _ => None,
    }
}

/// A verb's way back. What was restarted or reloaded is restarted or reloaded again, over the restored files.
pub(crate) fn opposite(verb: ServiceVerb) -> ServiceVerb {
    match verb {
        ServiceVerb::Enable => ServiceVerb::Disable,
        ServiceVerb::Disable => ServiceVerb::Enable,
        ServiceVerb::Start => ServiceVerb::Stop,
        ServiceVerb::Stop => ServiceVerb::Start,
        same @ (ServiceVerb::Restart | ServiceVerb::Reload | ServiceVerb::DaemonReload) => same,
    }
}

fn words<const N: usize>(argv: [&str; N]) -> Vec<String> {
    argv.into_iter().map(str::to_owned).collect()
}

fn file_op(path: &str) -> HandError {
    HandError::NotHere { what: format!("writing {path}"), why: "the journal writes files itself".into() }
}

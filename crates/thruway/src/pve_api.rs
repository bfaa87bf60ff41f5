//! `--pve URL`: VMs looked at and changed by Proxmox VE's API, or only changed by it in place of `qm`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use journal::ledger;
use journal::{HandError, Hands};
use machine::{FileKind, Machine as _, Memory, Node, NodeKind, Root, Stat};
use model::{Op, Plan, Seen};
use pve::{Answers, Client, Login, PveHands, Secret, Trust};

use crate::cli::{Global, PveArgs};
use crate::target::Target;
use crate::warn;

const TOKEN: &str = "THRUWAY_PVE_TOKEN";
const PASSWORD: &str = "THRUWAY_PVE_PASSWORD";

/// The cluster's own CA on a node; then where distributions keep the public ones.
const CAS: &[&str] =
    &["/etc/pve/pve-root-ca.pem", "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// A node by its API, as it was when it was asked.
pub struct Remote {
    pub answers: Answers,
    pub tree: Memory,
    /// The VM that was meant.
    pub vm: Option<String>,
    /// What is done to it is written down here, on this machine: a directory as a root of its own.
    pub home: PathBuf,
    /// The same, where it is there.
    pub journal: Option<Root>,
}

impl Remote {
    /// Asks the API, and lays the promises made from here beside what it tells.
    pub fn ask(args: &PveArgs, url: &str, vm: Option<&str>) -> anyhow::Result<Remote> {
        let client = Client::new(url, login(args)?, &trust(args)?)?;
        let answers = Answers::ask(&client, args.node.as_deref(), vm)?;
        let home = home(client.url())?;
        let journal =
            if home.is_dir() { Some(Root::tree(&home).context("cannot open this node's journal")?) } else { None };
        let mut tree = answers.machine();
        promises(&mut tree, journal.as_ref());
        Ok(Remote { answers, tree, vm: vm.map(str::to_owned), home, journal })
    }
}

/// What was done from here to the node that --pve alone names; none where another machine is meant.
pub fn log(global: &Global) -> anyhow::Result<Option<Vec<journal::Transaction>>> {
    let Some(url) = global.pve.url.as_ref().filter(|_| Target::by_api(global)) else { return Ok(None) };
    let home = home(Client::address(url)?.as_str())?;
    if !home.is_dir() {
        return Ok(Some(Vec::new()));
    }
    Ok(Some(journal::read_log(&Root::tree(&home).context("cannot open this node's journal")?)?))
}

fn home(url: &str) -> anyhow::Result<PathBuf> {
    state_of("pve", url)
}

/// Where what is done by an API is written down: $XDG_STATE_HOME/thruway/KIND/HOST_PORT, else below ~/.local/state.
pub fn state_of(kind: &str, url: &str) -> anyhow::Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|text| Path::new(text).is_absolute()).map(PathBuf::from);
    let Some(state) = set("XDG_STATE_HOME").or_else(|| Some(set("HOME")?.join(".local/state"))) else {
        bail!("where to write down what is done is not known: set HOME or XDG_STATE_HOME");
    };
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' || c == '-' { c } else { '_' };
    let name: String = url.trim_start_matches("https://").trim_start_matches("http://").chars().map(plain).collect();
    Ok(state.join("thruway").join(kind).join(name))
}

/// The ledger that this machine keeps for the node.
fn promises(tree: &mut Memory, journal: Option<&Root>) {
    match journal.map(|root| (root, root.list(ledger::DIR))) {
        None | Some((_, Seen::Absent)) => tree.insert_gone(ledger::DIR, Seen::Absent),
        Some((_, Seen::Unreadable(reason))) => tree.insert_gone(ledger::DIR, Seen::Unreadable(reason)),
        Some((root, Seen::Is(names))) => {
            let stat = |kind, size| Stat { kind, mode: 0o644, uid: 0, gid: 0, size, mtime: 0, rdev: None };
            for path in names.iter().map(|name| format!("{}/{name}", ledger::DIR)) {
                let bytes = root.read(&path).map(Into::into);
                tree.insert(&path, Node { stat: stat(FileKind::File, 0), kind: NodeKind::File(bytes) });
            }
            let dir = Node { stat: stat(FileKind::Dir, 0), kind: NodeKind::Dir(Seen::Is(names)) };
            tree.insert(ledger::DIR, dir);
        }
    }
}

/// What an API alone can change: nothing else.
pub struct Nothing;

impl Hands for Nothing {
    fn act(&self, _: &Op) -> Result<(), HandError> {
        let why = "only VMs and mappings are changed by Proxmox VE's API; run thruway on the node".into();
        Err(HandError::NotHere { what: "this step".into(), why })
    }

    fn take_back(&self, op: &Op) -> Result<(), HandError> {
        self.act(op)
    }
}

/// `below` without --pve; with it, hands that send VM changes to the API. What the API will refuse of the plan is said
/// here, before anything is changed or asked.
pub fn hands(
    global: &Global,
    target: &Target,
    below: Box<dyn Hands>,
    plan: Option<&Plan>,
) -> anyhow::Result<Box<dyn Hands>> {
    let args = &global.pve;
    let Some(url) = &args.url else { return Ok(below) };
    let client = Client::new(url, login(args)?, &trust(args)?)?;
    let mut hands = PveHands::new(client, below, Box::new(|text| drop(warn(text))));
    if let Target::Api(remote) = target {
        hands = hands.knowing(&remote.answers);
    }
    for change in plan.into_iter().flat_map(|plan| &plan.changes) {
        if let Op::Proxmox { vmid, set, delete, .. } = &change.op {
            hands.ahead(*vmid, set, delete)?;
        }
    }
    Ok(Box::new(hands))
}

/// A token from its file or the environment, else a user with the password from the environment.
fn login(args: &PveArgs) -> anyhow::Result<Login> {
    if let Some(path) = &args.token_file {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        alone(path)?;
        return Login::token(&text).with_context(|| format!("{} holds no token", path.display()));
    }
    let set = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    match (&args.user, set(TOKEN)) {
        (Some(user), _) => match set(PASSWORD) {
            Some(password) => Ok(Login::Password { user: user.clone(), password: Secret::new(password) }),
            None => bail!(
                "--pve-user {user}: its password is read from the environment variable {PASSWORD}, which is not set"
            ),
        },
        (None, Some(token)) => Login::token(&token).with_context(|| format!("the environment variable {TOKEN}")),
        (None, None) => bail!(
            "--pve needs a login: an API token in --pve-token-file or the environment variable {TOKEN}, or --pve-user with {PASSWORD}"
        ),
    }
}

/// Says so where others can read the token.
pub fn alone(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(path).map(|meta| meta.permissions().mode()).unwrap_or(0);
    if mode & 0o077 != 0 {
        warn(&format!("{} can be read by others: chmod 600 it", path.display()))?;
    }
    Ok(())
}

fn trust(args: &PveArgs) -> anyhow::Result<Trust> {
    let way = "give --pve-fingerprint (pvenode cert info on the node) or --pve-ca";
    trusted(args.fingerprint.as_deref(), args.ca.as_deref(), way)
}

/// A pinned certificate, a CA's file, or the CAs of this machine. `way`: what to do where it has none.
pub fn trusted(pin: Option<&str>, ca: Option<&Path>, way: &str) -> anyhow::Result<Trust> {
    if let Some(pin) = pin {
        return Ok(Trust::pin(pin)?);
    }
    if let Some(path) = ca {
        let pem = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        return Ok(Trust::Roots(pem));
    }
    match CAS.iter().find_map(|path| std::fs::read(path).ok()) {
        Some(pem) => Ok(Trust::Roots(pem)),
        None => bail!("this machine has no list of CAs: {way}"),
    }
}

//! CDI edits onto an OCI configuration, in the order that the CDI specification's readers have: environment, nodes,
//! network devices, mounts, hooks, RDT, groups; of each device first, then the spec's common ones.
//!
//! Applying the same edits again changes nothing: what is there under the same name is replaced, what is there whole is
//! left. One thing is done otherwise than by CDI's own library: a node's numbers are those of the live node, whatever
//! the spec has written down. The majors of nvidia-uvm and nvidia-caps are given out anew with each load of the
//! module, and a written one would let the container open another driver's device.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use formats::cdispec::{DeviceNode, Edits, HOOKS, Hook, Mount};
use model::Capabilities;
use serde_json::{Value, json};

use crate::json::{self as text, BadJson, Tree};

/// A device node as it is on this machine now (stat(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    /// 'c' or 'b'.
    pub kind: char,
    pub major: u32,
    pub minor: u32,
}

/// How edits are applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// Mount only what these capabilities want; `None` mounts everything.
    pub only: Option<Capabilities>,
    /// Bind mounts of a container with a user namespace are mapped to it (`idmap`), as CDI's library does since 1.0.
    /// Not every file system can, and the driver's files are readable by all: so it is a choice.
    pub idmap: bool,
    /// Nodes come as bind mounts and not as devices: whoever is not root can make no node, and crun then gives up where it
    /// would bind one itself. Who has no device cgroup needs no rule either.
    pub bind_nodes: bool,
}

/// A changed configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    pub text: String,
    pub warnings: Vec<String>,
}

/// Why edits cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApplyError {
    Json(BadJson),
    /// A node of the spec is not on this machine: its path here.
    NoNode(String),
    /// The spec gives a hook a stage that the runtime specification does not have.
    NoStage(String),
}

impl From<BadJson> for ApplyError {
    fn from(bad: BadJson) -> ApplyError {
        ApplyError::Json(bad)
    }
}

impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ApplyError::Json(bad) => write!(f, "config.json is not what the runtime specification describes: {bad}"),
            ApplyError::NoNode(path) => write!(f, "{path}, which the CDI spec gives, is not on this machine"),
            ApplyError::NoStage(name) => write!(f, "the CDI spec has a hook of the unknown kind \"{name}\""),
        }
    }
}

impl std::error::Error for ApplyError {}

/// What a warning says where a spec's written numbers are not the node's, if they are not.
pub fn stale_numbers(node: &DeviceNode, live: Live) -> Option<String> {
    let written = (node.major.unwrap_or(0), node.minor.unwrap_or(0));
    (node.major.is_some() && written != (i64::from(live.major), i64::from(live.minor))).then(|| {
        format!(
            "the CDI spec gives {} the numbers {}:{}, and the node is {}:{} now: taking those of the node (the spec is \
             stale; thruway cdi refresh writes it anew)",
            node.host(),
            written.0,
            written.1,
            live.major,
            live.minor
        )
    })
}

/// Applies edits, in their order, to a configuration. `live` looks a node up by its path on the host.
pub fn apply(
    config: &str,
    edits: &[&Edits],
    way: Way,
    live: &mut dyn FnMut(&str) -> Option<Live>,
) -> Result<Applied, ApplyError> {
    let mut tree = Tree::of(config);
    let mut warnings = Vec::new();
    let mapped = way.idmap && crate::config::Look::at(config)?.user_namespace()?;
    let owner = owner(config)?;
    let mut mounts: Vec<(&str, Tree<'_>)> = Vec::new();
    let mut nodes: Vec<(&DeviceNode, Live)> = Vec::new();
    for edit in edits {
        environment(&mut tree, &edit.env)?;
        for node in &edit.device_nodes {
            let path = node.host();
            let numbers = live(path).ok_or_else(|| ApplyError::NoNode(path.to_owned()))?;
            warnings.extend(stale_numbers(node, numbers));
            if way.bind_nodes {
                mounts.push((&node.path, bound(node)));
            } else {
                nodes.push((node, numbers));
            }
        }
        for net in &edit.net_devices {
            net_device(&mut tree, net)?;
        }
        let wanted = |mount: &&Mount| way.only.is_none_or(|wanted| wanted.want(&mount.container_path));
        mounts.extend(
            edit.mounts.iter().filter(wanted).map(|mount| (mount.container_path.as_str(), made(mount, mapped))),
        );
        for hook in &edit.hooks {
            add_hook(&mut tree, hook)?;
        }
        if let Some(rdt) = &edit.intel_rdt {
            *tree.entry("linux")?.entry("intelRdt")? = Tree::owned(rdt.to_string());
        }
        for gid in edit.additional_gids.iter().filter(|gid| **gid != 0) {
            let gid = gid.to_string();
            let gids = tree.entry("process")?.entry("user")?.entry("additionalGids")?.array()?;
            if !gids.iter().any(|there| there.text() == gid) {
                gids.push(Tree::owned(gid));
            }
        }
    }
    devices(&mut tree, &nodes, owner)?;
    mount(&mut tree, mounts)?;
    Ok(Applied { text: tree.text(), warnings })
}

/// Takes the prestart hook of NVIDIA's name out, which an engine or another runtime has put in. `None`: there is none.
pub fn without_nvidia_hook(config: &str) -> Result<Option<String>, BadJson> {
    if !crate::config::Look::at(config)?.nvidia_hook {
        return Ok(None);
    }
    let mut tree = Tree::of(config);
    let hooks = tree.entry("hooks")?;
    let prestart = hooks.entry("prestart")?.array()?;
    prestart.retain(|hook| !field(hook, "path").is_some_and(|path| crate::config::is_nvidia_hook(&path)));
    if prestart.is_empty() {
        hooks.object()?.retain(|(key, _)| !text::is_key(key, "prestart"));
    }
    Ok(Some(tree.text()))
}

/// The user and group of the first process, where it is not root: nodes are theirs, unless the spec says whose.
fn owner(config: &str) -> Result<(Option<u32>, Option<u32>), BadJson> {
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<u32>().ok()).filter(|id| *id > 0);
    let part = |within: Option<&'_ str>, name: &str| -> Result<Option<String>, BadJson> {
        match within.filter(|text| *text != "null") {
            Some(within) => Ok(text::member(within, name)?.map(str::to_owned)),
            None => Ok(None),
        }
    };
    let process = part(Some(config), "process")?;
    let user = part(process.as_deref(), "user")?;
    let (uid, gid) = (part(user.as_deref(), "uid")?, part(user.as_deref(), "gid")?);
    Ok((number(uid.as_deref()), number(gid.as_deref())))
}

/// The text of a member of an element that was not taken apart.
fn raw<'t>(tree: &'t Tree<'_>, name: &str) -> Option<Cow<'t, str>> {
    match tree {
        Tree::Text(whole) => text::member(whole, name).ok()?.map(Cow::Borrowed),
        taken_apart => text::member(&taken_apart.text(), name).ok()?.map(|value| Cow::Owned(value.to_owned())),
    }
}

/// A string member of an element.
fn field<'t>(tree: &'t Tree<'_>, name: &str) -> Option<Cow<'t, str>> {
    match raw(tree, name)? {
        Cow::Borrowed(value) => text::string(value),
        Cow::Owned(value) => text::string(&value).map(|value| Cow::Owned(value.into_owned())),
    }
}

fn environment(tree: &mut Tree<'_>, entries: &[String]) -> Result<(), ApplyError> {
    if entries.is_empty() {
        return Ok(());
    }
    let env = tree.entry("process")?.entry("env")?.array()?;
    for entry in entries {
        let name = entry.split_once('=').map_or(entry.as_str(), |(name, _)| name);
        let same = |there: &Tree<'_>| {
            let printed = there.text();
            let found = text::string(&printed);
            found.is_some_and(|there| there.strip_prefix(name).is_some_and(|rest| rest.starts_with('=')))
        };
        let first = env.iter().position(&same);
        match first {
            Some(at) => {
                // one value a name: a second entry would win in some programs and lose in others
                let mut index = 0;
                env.retain(|there| {
                    index += 1;
                    index - 1 <= at || !same(there)
                });
                if let Some(there) = env.get_mut(at) {
                    *there = Tree::owned(text::quoted(entry));
                }
            }
            None => env.push(Tree::owned(text::quoted(entry))),
        }
    }
    Ok(())
}

/// Of several under one name the last counts, at its place: all of a name are removed as each is added.
fn last_of<'n, T>(given: Vec<T>, name: impl Fn(&T) -> &'n str) -> Vec<T> {
    let mut names = HashSet::with_capacity(given.len());
    let mut kept: Vec<T> = given.into_iter().rev().filter(|one| names.insert(name(one))).collect();
    kept.reverse();
    kept
}

fn devices(
    tree: &mut Tree<'_>,
    nodes: &[(&DeviceNode, Live)],
    owner: (Option<u32>, Option<u32>),
) -> Result<(), ApplyError> {
    if nodes.is_empty() {
        return Ok(());
    }
    let nodes: Vec<(&DeviceNode, Live)> = last_of(nodes.to_vec(), |(node, _)| node.path.as_str());
    let names: HashSet<&str> = nodes.iter().map(|(node, _)| node.path.as_str()).collect();
    let linux = tree.entry("linux")?;
    let devices = linux.entry("devices")?.array()?;
    devices.retain(|there| field(there, "path").is_none_or(|path| !names.contains(path.as_ref())));
    for (node, live) in &nodes {
        let mut made = String::from("{\"path\":");
        text::quote(&node.path, &mut made);
        made.push_str(&format!(",\"type\":\"{}\",\"major\":{},\"minor\":{}", live.kind, live.major, live.minor));
        for (name, value) in
            [("fileMode", node.file_mode), ("uid", node.uid.or(owner.0)), ("gid", node.gid.or(owner.1))]
        {
            if let Some(value) = value {
                made.push_str(&format!(",\"{name}\":{value}"));
            }
        }
        made.push('}');
        devices.push(Tree::owned(made));
    }
    let rules = linux.entry("resources")?.entry("devices")?.array()?;
    // a later rule wins, so one that is followed by a refusal is said again
    let refused = rules.iter().rposition(|there| !matches!(raw(there, "allow").as_deref(), Some("true")));
    let mut there: HashSet<String> = rules.iter().skip(refused.map_or(0, |at| at + 1)).map(Tree::text).collect();
    for (node, live) in &nodes {
        let mut rule = format!(
            "{{\"allow\":true,\"type\":\"{}\",\"major\":{},\"minor\":{},\"access\":",
            live.kind, live.major, live.minor
        );
        text::quote(node.access(), &mut rule);
        rule.push('}');
        if there.insert(rule.clone()) {
            rules.push(Tree::owned(rule));
        }
    }
    Ok(())
}

/// Network devices are a map by the interface's name on the host (runtime-spec 1.3, linux.netDevices).
fn net_device(tree: &mut Tree<'_>, net: &Value) -> Result<(), ApplyError> {
    let Some(host) = net.get("hostInterfaceName").and_then(Value::as_str) else { return Ok(()) };
    let name = net.get("name").and_then(Value::as_str).unwrap_or(host);
    *tree.entry("linux")?.entry("netDevices")?.entry(host)? = Tree::owned(json!({ "name": name }).to_string());
    Ok(())
}

/// A mount in the form of the runtime specification.
fn made<'a>(mount: &Mount, mapped: bool) -> Tree<'a> {
    let mut options: Vec<&str> = mount.options.iter().map(String::as_str).collect();
    let bind = options.iter().any(|option| matches!(*option, "bind" | "rbind"));
    if mapped && bind && !options.iter().any(|option| matches!(*option, "idmap" | "ridmap")) {
        options.push("idmap");
    }
    let mut out = String::with_capacity(256);
    out.push_str("{\"destination\":");
    text::quote(&mount.container_path, &mut out);
    if let Some(kind) = mount.kind.as_deref().filter(|kind| !kind.is_empty()) {
        out.push_str(",\"type\":");
        text::quote(kind, &mut out);
    }
    out.push_str(",\"source\":");
    text::quote(&mount.host_path, &mut out);
    if !options.is_empty() {
        out.push_str(",\"options\":");
        text::quote_all(options, &mut out);
    }
    out.push('}');
    Tree::owned(out)
}

/// A node as a bind mount of the host's.
fn bound(node: &DeviceNode) -> Tree<'static> {
    let options = ["bind", "rprivate", "nosuid", "noexec"].map(str::to_owned).to_vec();
    let (host_path, container_path) = (node.host().to_owned(), node.path.clone());
    made(&Mount { host_path, container_path, options, ..Mount::default() }, false)
}

/// Replaces and adds mounts, then sorts all by depth, as the engines have it, so that none covers one made before it.
fn mount(tree: &mut Tree<'_>, new: Vec<(&str, Tree<'static>)>) -> Result<(), ApplyError> {
    if new.is_empty() {
        return Ok(());
    }
    let new = last_of(new, |(path, _)| *path);
    let names: HashSet<&str> = new.iter().map(|(path, _)| *path).collect();
    let there = tree.entry("mounts")?.array()?;
    let mut all: Vec<(usize, Tree<'_>)> = Vec::with_capacity(there.len() + new.len());
    for mount in there.drain(..) {
        let path = field(&mount, "destination").unwrap_or_default();
        if !names.contains(path.as_ref()) {
            let depth = depth(&path);
            drop(path);
            all.push((depth, mount));
        }
    }
    all.extend(new.into_iter().map(|(path, mount)| (depth(path), mount)));
    all.sort_by_key(|(depth, _)| *depth);
    there.extend(all.into_iter().map(|(_, mount)| mount));
    Ok(())
}

fn add_hook(tree: &mut Tree<'_>, hook: &Hook) -> Result<(), ApplyError> {
    if !HOOKS.contains(&hook.hook_name.as_str()) {
        return Err(ApplyError::NoStage(hook.hook_name.clone()));
    }
    let mut made = String::from("{\"path\":");
    text::quote(&hook.path, &mut made);
    for (name, list) in [("args", &hook.args), ("env", &hook.env)] {
        if !list.is_empty() {
            made.push_str(&format!(",\"{name}\":"));
            text::quote_all(list.iter().map(String::as_str), &mut made);
        }
    }
    if let Some(timeout) = hook.timeout {
        made.push_str(&format!(",\"timeout\":{timeout}"));
    }
    made.push('}');
    let hooks = tree.entry("hooks")?.entry(&hook.hook_name)?.array()?;
    if !hooks.iter().any(|there| there.text() == made) {
        hooks.push(Tree::owned(made));
    }
    Ok(())
}

/// The number of slashes of a path once `.`, `..` and doubled slashes are gone.
fn depth(path: &str) -> usize {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    if path.starts_with('/') { parts.len().max(1) } else { parts.len().saturating_sub(1) }
}

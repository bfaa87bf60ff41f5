//! `thruway cdi refresh`: the generated specs, once.

use cdi::{Carried, NoSpec, Wish};
use journal::cache::Cache;
use machine::{Kind, Machine, MachineExt as _};
use serde::Serialize;

use super::options;
use crate::cli::{Global, RefreshArgs};
use crate::target::Target;
use crate::{DONE, FOUND, say, warn};

/// What a refresh did, or would do.
#[derive(Debug, Default, Serialize)]
pub(super) struct Done {
    pub(super) wrote: Vec<String>,
    pub(super) removed: Vec<String>,
    /// Nodes and links below /dev that were made.
    pub(super) made: Vec<String>,
    pub(super) notes: Vec<String>,
    /// Why there is no spec.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) none: Option<String>,
    /// Another generator's files that define the same devices.
    pub(super) others: Vec<String>,
    #[serde(skip)]
    pub(super) dirs: Vec<String>,
    /// No spec, and that is as it should be.
    #[serde(skip)]
    pub(super) idle: bool,
}

impl Done {
    pub(super) fn changed(&self) -> bool {
        !(self.wrote.is_empty() && self.removed.is_empty() && self.made.is_empty())
    }

    pub(super) fn line(&self) -> String {
        let mut parts = Vec::new();
        for (what, paths) in [("wrote", &self.wrote), ("removed", &self.removed), ("made", &self.made)] {
            if !paths.is_empty() {
                parts.push(format!("{what} {}", paths.join(", ")));
            }
        }
        if parts.is_empty() { "nothing to do".to_owned() } else { parts.join("; ") }
    }
}

pub fn refresh(global: &Global, args: &RefreshArgs) -> anyhow::Result<u8> {
    let target = Target::open(global)?;
    let cache = if args.dry_run { None } else { Some(Cache::open(&target.path()?)?) };
    let done = once(target.machine(), cache.as_ref(), args)?;
    if global.json {
        let mut json = serde_json::to_value(&done)?;
        if let Some(map) = json.as_object_mut() {
            map.insert("schema".into(), 1.into());
        }
        say(&(serde_json::to_string_pretty(&json)? + "\n"))?;
    } else {
        for note in &done.notes {
            warn(note)?;
        }
        if target.machine().kind() == Kind::Simulated {
            warn("simulated: these specs describe no real card")?;
        }
        if let Some(why) = &done.none {
            warn(&format!("no spec: {why}"))?;
        }
        let would = if args.dry_run { "would have: " } else { "" };
        say(&format!("{would}{}\n", done.line()))?;
        tell_others(&done)?;
    }
    Ok(if done.none.is_some() && !done.idle { FOUND } else { DONE })
}

pub(super) fn tell_others(done: &Done) -> anyhow::Result<()> {
    for path in &done.others {
        warn(&format!(
            "{path} defines GPUs as well: engines that find a device twice give it to nobody; thruway cdi check says what to do"
        ))?;
    }
    Ok(())
}

/// Looks, and has the files be as they should; `None`: only says.
pub(super) fn once(machine: &dyn Machine, cache: Option<&Cache>, args: &RefreshArgs) -> anyhow::Result<Done> {
    let mut done = Done::default();
    if args.create_nodes {
        control_nodes(machine, cache, &mut done);
    }
    let carried = match cache {
        Some(cache) => cdi::carry_out(machine, cache, &args.output_dir, &options(&args.how))?,
        None => would(machine, args),
    };
    let Wish { notes, spec, none, .. } = carried.wish;
    (done.wrote, done.removed) = (carried.wrote, carried.removed);
    if args.dev_char_links {
        char_links(machine, cache, &mut done);
    }
    done.notes.splice(0..0, notes);
    done.idle = matches!(none, Some(NoSpec::NoCard | NoSpec::NoDriver | NoSpec::Withheld(_)));
    done.none = none.map(|why| why.to_string());
    let mut dirs = cdi::SPEC_DIRS.map(str::to_owned).to_vec();
    dirs.push(args.output_dir.clone());
    done.others = cdi::others(machine, &dirs).into_iter().map(|(path, _)| path).collect();
    done.dirs = cdi::watched(spec.as_ref(), &args.output_dir);
    Ok(done)
}

/// As [`cdi::carry_out`], without writing.
fn would(machine: &dyn Machine, args: &RefreshArgs) -> Carried {
    let wish = cdi::wish(machine, &args.output_dir, &options(&args.how));
    let fresh = wish.files.iter().filter(|(path, bytes)| machine.read(path).get() != Some(bytes));
    let wrote = fresh.map(|(path, _)| path.clone()).collect();
    let removed = wish.remove.iter().filter(|path| !machine.lstat(path).is_absent()).cloned().collect();
    Carried { wish, wrote, removed }
}

/// A driver's control nodes by the numbers that the kernel gave it. What another has made is left as it is.
fn control_nodes(machine: &dyn Machine, cache: Option<&Cache>, done: &mut Done) {
    let loaded = |module: &str| machine.exists(&format!("/sys/module/{module}"));
    if !loaded("nvidia") {
        return;
    }
    let params = machine.text("/proc/driver/nvidia/params").is().unwrap_or_default();
    if params.lines().any(|line| line.trim() == "ModifyDeviceFiles: 0") {
        done.notes
            .push("NVreg_ModifyDeviceFiles=0 says that nodes are somebody else's to make; none was made".to_owned());
        return;
    }
    let devices = machine.text("/proc/devices").is().unwrap_or_default();
    let major = |name: &str| {
        let of = |line: &str| line.trim().split_once(' ').filter(|(_, it)| *it == name)?.0.parse::<u32>().ok();
        devices.lines().take_while(|line| !line.starts_with("Block")).find_map(of)
    };
    let frontend = major("nvidia").or_else(|| major("nvidia-frontend"));
    let uvm = major("nvidia-uvm");
    let modeset = frontend.filter(|_| loaded("nvidia_modeset"));
    for (path, major, minor) in [
        ("/dev/nvidiactl", frontend, 255),
        ("/dev/nvidia-modeset", modeset, 254),
        ("/dev/nvidia-uvm", uvm, 0),
        ("/dev/nvidia-uvm-tools", uvm, 1),
    ] {
        let Some(major) = major.filter(|_| machine.lstat(path).is_absent()) else { continue };
        match cache.map_or(Ok(true), |cache| cache.node(path, major, minor)) {
            Ok(true) => done.made.push(path.to_owned()),
            Ok(false) => {}
            Err(error) => done.notes.push(format!("{path} was not made: {error}")),
        }
    }
}

/// systemd knows a device by /dev/char/MAJOR:MINOR, and NVIDIA's module tells the kernel of none of its nodes.
fn char_links(machine: &dyn Machine, cache: Option<&Cache>, done: &mut Done) {
    for (dir, back) in [("/dev", "../"), ("/dev/nvidia-caps", "../nvidia-caps/")] {
        for name in machine.names(dir).iter().filter(|name| name.starts_with("nvidia")) {
            if ["nvidia-fs", "nvidia-nvswitch", "nvidia-nvlink"].iter().any(|other| name.starts_with(other)) {
                continue;
            }
            let stat = machine.lstat(&format!("{dir}/{name}")).is();
            let Some((major, minor)) = stat.and_then(|stat| stat.rdev) else { continue };
            let (link, target) = (format!("/dev/char/{major}:{minor}"), format!("{back}{name}"));
            if machine.link(&link).get() == Some(&target) {
                continue;
            }
            match cache.map_or(Ok(true), |cache| cache.link(&link, &target)) {
                Ok(true) => done.made.push(link),
                Ok(false) => {}
                Err(error) => done.notes.push(format!("{link} was not made: {error}")),
            }
        }
    }
}

//! NVIDIA's config file (`version: v1`), as it is.
//!
//! What its own plugin parses and then passes over (`resources`, and `rename` and `devices` below `sharing`) is honoured
//! here, and a note says so. A key that nobody knows is a note too, since its plugin says nothing of it either; below
//! `thruway` it is an error.

use serde_json::Value;

use super::read::{At, BadConfig, Read, duration};
use super::{Config, Imex, LabelWish, Naming, Replicate, Replicated, Sharing, Which, options, resource_name};

/// The only version there is.
const VERSION: &str = "v1";

impl Config {
    /// Reads a config file, YAML or JSON. An empty one is the default.
    ///
    /// # Errors
    /// The line, the key, and what would be right.
    pub fn parse(text: &str) -> Result<Config, BadConfig> {
        let value = formats::yamlin::parse(text).map_err(|error| BadConfig {
            line: error.line,
            at: String::new(),
            says: error.message,
        })?;
        let mut config = Config::default();
        if !value.is_null() {
            config.take(&At::root(&value)).map_err(|bad| bad.located(text))?;
        }
        Ok(config)
    }

    fn take(&mut self, root: &At<'_>) -> Read<()> {
        self.pass(root, &["version", "flags", "resources", "sharing", "imex", "thruway"])?;
        if let Some(version) = root.get("version")
            && version.value != VERSION
        {
            return version.bad(format!("is {}, and this program reads {VERSION}", version.value));
        }
        if let Some(flags) = root.get("flags") {
            self.flags(&flags)?;
        }
        if let Some(resources) = root.get("resources") {
            self.resources(&resources)?;
        }
        if let Some(sharing) = root.get("sharing") {
            self.sharing(&sharing)?;
        }
        if let Some(imex) = root.get("imex") {
            self.imex(&imex)?;
        }
        root.get("thruway").map_or(Ok(()), |own| self.own(&own))
    }

    /// Notes the keys that are not among these.
    fn pass(&mut self, at: &At<'_>, known: &[&str]) -> Read<()> {
        let unknown = at.unknown(known)?;
        self.notes.extend(unknown.into_iter().map(|key| format!("{key} is not known and is passed over")));
        Ok(())
    }

    fn flags(&mut self, flags: &At<'_>) -> Read<()> {
        let groups = [(None, flags.clone()), (Some("plugin"), flags.clone()), (Some("gfd"), flags.clone())];
        for (group, at) in groups {
            let Some(at) = group.map_or(Some(at.clone()), |group| at.get(group)) else { continue };
            let mut known: Vec<&str> = options::keys(group).collect();
            known.extend(group.is_none().then_some(["plugin", "gfd"]).into_iter().flatten());
            self.pass(&at, &known)?;
            for key in options::keys(group) {
                let Some(value) = at.get(key) else { continue };
                options::set_key(self, group, key, &value)?;
            }
        }
        Ok(())
    }

    fn resources(&mut self, resources: &At<'_>) -> Read<()> {
        // `resources: []` is what the chart writes for "none"
        if resources.value.as_array().is_some_and(Vec::is_empty) {
            return Ok(());
        }
        self.pass(resources, &["gpus", "mig"])?;
        for (key, mig) in [("gpus", false), ("mig", true)] {
            let Some(list) = resources.get(key) else { continue };
            for item in list.items()? {
                self.pass(&item, &["pattern", "name"])?;
                let (Some(pattern), Some(name)) = (item.get("pattern"), item.get("name")) else {
                    return item.bad("is to have a pattern and a name");
                };
                let naming = Naming { pattern: pattern.text()?.to_owned(), name: named(&name)? };
                if mig { &mut self.mig_names } else { &mut self.names }.push(naming);
            }
        }
        if self.names.iter().any(|naming| naming.name != "nvidia.com/gpu") || !self.mig_names.is_empty() {
            self.notes.push("resources: own names are used, which NVIDIA's plugin parses and passes over".into());
        }
        Ok(())
    }

    fn sharing(&mut self, sharing: &At<'_>) -> Read<()> {
        self.pass(sharing, &["timeSlicing", "mps"])?;
        if let Some(mps) = sharing.get("mps") {
            let used =
                mps.get("resources").is_some_and(|list| list.value.as_array().is_none_or(|list| !list.is_empty()));
            if used {
                return mps.bad(
                    "is not offered: it needs NVIDIA's control daemon beside the plugin; use sharing.timeSlicing, or MIG \
                     where memory must be kept apart",
                );
            }
        }
        let Some(slicing) = sharing.get("timeSlicing") else { return Ok(()) };
        self.pass(&slicing, &["strategy", "renameByDefault", "failRequestsGreaterThanOne", "resources"])?;
        if let Some(strategy) = slicing.get("strategy").filter(|strategy| strategy.value != "") {
            return strategy.bad("is not known: leave it out");
        }
        let flag = |key: &str| slicing.get(key).map_or(Ok(false), |value| value.flag());
        let mut found = Sharing {
            rename_by_default: flag("renameByDefault")?,
            fail_requests_greater_than_one: flag("failRequestsGreaterThanOne")?,
            resources: Vec::new(),
        };
        let list = slicing.get("resources").map_or(Ok(Vec::new()), |list| list.items())?;
        for item in list {
            let one = self.replicated(&item)?;
            if found.resources.iter().any(|other| other.name == one.name) {
                return item.bad(format!("{} is replicated twice", one.name));
            }
            found.resources.push(one);
        }
        let own = |one: &Replicated| one.rename.is_some() || one.devices != Replicate::All;
        if found.resources.iter().any(own) {
            self.notes.push(
                "sharing.timeSlicing: rename and devices are honoured, which NVIDIA's plugin parses and passes over"
                    .into(),
            );
        }
        self.sharing = (!found.resources.is_empty()).then_some(found);
        Ok(())
    }

    fn replicated(&mut self, item: &At<'_>) -> Read<Replicated> {
        self.pass(item, &["name", "rename", "devices", "replicas"])?;
        let Some(name) = item.get("name") else { return item.bad("names no resource (name: nvidia.com/gpu)") };
        let Some(replicas) = item.get("replicas") else { return item.bad("says no number of replicas") };
        let count = u32::try_from(replicas.number()?).unwrap_or(u32::MAX);
        if count < 2 {
            return replicas.bad("is to be 2 or more: once is what every device is offered without sharing");
        }
        // the kubelet keeps a list of all; NVIDIA's own limits are far below
        if count > MOST_REPLICAS {
            return replicas.bad(format!("is to be at most {MOST_REPLICAS}"));
        }
        let rename = item.get("rename").map(|rename| named(&rename)).transpose()?;
        let devices = item.get("devices").map_or(Ok(Replicate::All), |devices| which(&devices))?;
        Ok(Replicated { name: named(&name)?, rename, devices, replicas: count })
    }

    fn imex(&mut self, imex: &At<'_>) -> Read<()> {
        self.pass(imex, &["channelIDs", "required"])?;
        let required = imex.get("required").map_or(Ok(false), |value| value.flag())?;
        let Some(ids) = imex.get("channelIDs") else {
            self.imex.required = required;
            return Ok(());
        };
        let channels = ids.items()?.iter().map(At::number).collect::<Read<Vec<u64>>>()?;
        if !matches!(channels.as_slice(), [] | [0]) {
            return ids.bad("is to be [] or [0]");
        }
        self.imex = Imex { channels: channels.into_iter().map(|id| id as u32).collect(), required };
        Ok(())
    }

    fn own(&mut self, own: &At<'_>) -> Read<()> {
        strict(own, &["include", "exclude", "health"])?;
        for (key, exclude) in [("include", false), ("exclude", true)] {
            let Some(list) = own.get(key) else { continue };
            for item in list.items()? {
                let one: Which = item.name()?.parse().or_else(|says: String| item.bad(says))?;
                if exclude { &mut self.exclude } else { &mut self.include }.push(one);
            }
        }
        let Some(health) = own.get("health") else { return Ok(()) };
        strict(&health, &["off", "ignore", "enable", "hold", "holdReset", "looks", "retest"])?;
        let rules = &mut self.health;
        if let Some(off) = health.get("off") {
            rules.off = off.flag()?;
        }
        for (key, into) in [("ignore", &mut rules.ignore), ("enable", &mut rules.enable)] {
            let Some(list) = health.get(key) else { continue };
            *into = list.items()?.iter().map(At::number).collect::<Read<Vec<u64>>>()?;
        }
        let times = [("hold", &mut rules.hold), ("holdReset", &mut rules.hold_reset), ("retest", &mut rules.retest)];
        for (key, into) in times {
            let Some(value) = health.get(key) else { continue };
            let Some(millis) = duration(value.value) else { return value.bad("is to be a time such as 10s or 500ms") };
            *into = millis;
        }
        rules.retest = rules.retest.max(100);
        if let Some(looks) = health.get("looks") {
            let count = looks.number()?;
            if !(1..=1000).contains(&count) {
                return looks.bad("is to be 1 to 1000");
            }
            rules.looks = count as u32;
        }
        Ok(())
    }
}

/// The most replicas of one device.
const MOST_REPLICAS: u32 = 1000;

fn strict(at: &At<'_>, known: &[&str]) -> Read<()> {
    match at.unknown(known)?.first() {
        None => Ok(()),
        Some(key) => {
            let says = format!("is not known; there are {}", known.join(", "));
            Err(BadConfig { line: 0, at: key.clone(), says })
        }
    }
}

fn named(at: &At<'_>) -> Read<String> {
    resource_name(at.text()?).or_else(|says| at.bad(says))
}

/// "all", a count, or a list.
fn which(at: &At<'_>) -> Read<Replicate> {
    match at.value {
        Value::String(text) if text == "all" => Ok(Replicate::All),
        Value::Number(_) => match at.number()? {
            0 => at.bad("is to be more than 0"),
            count => Ok(Replicate::Count(u32::try_from(count).unwrap_or(u32::MAX))),
        },
        Value::Array(_) => {
            let mut list = Vec::new();
            for item in at.items()? {
                let name = item.name()?;
                if !is_device(&name) {
                    return item.bad("is to be an index (0), an instance (0:1) or a UUID");
                }
                list.push(name);
            }
            Ok(Replicate::List(list))
        }
        _ => at.bad("is to be all, a count, or a list of devices"),
    }
}

fn is_device(name: &str) -> bool {
    let number = |text: &str| text.parse::<u32>().is_ok();
    number(name)
        || name.split_once(':').is_some_and(|(gpu, part)| number(gpu) && number(part))
        || name.strip_prefix("GPU-").or(name.strip_prefix("MIG-")).is_some_and(|rest| !rest.is_empty())
}

/// Feature discovery's interval: a time, or "infinite".
pub(super) fn interval(wish: &mut LabelWish, text: &str, millis: Option<u64>) -> Result<(), String> {
    wish.interval = match millis {
        Some(millis) => Some(millis.max(1_000)),
        None if text == "infinite" => None,
        None => return Err("is to be a time such as 60s, or infinite".into()),
    };
    Ok(())
}

//! The installed kernels, the driver's own settings, and what the kernel's log says of the cards.

use std::cmp::Ordering;

use formats::modprobe::{Directive, Modprobe};
use machine::{Machine, MachineExt};
use model::{Fact, Reason, Seen, Source};
use serde::Serialize;

use super::settings::{DIRS, Line};

/// One kernel that could be booted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kernel {
    pub release: String,
    /// /lib/modules/REL/build leads to headers.
    pub headers: bool,
    /// modules.dep lists nvidia.ko by one of its names.
    pub driver: bool,
}

/// Kernels with modules and an image, the newest last.
pub(super) fn kernels(machine: &dyn Machine) -> Vec<Kernel> {
    let image = |release: &str| {
        ["/boot/vmlinuz-", "/boot/kernel-"].iter().any(|front| machine.exists(&format!("{front}{release}")))
            || machine.exists(&format!("/lib/modules/{release}/vmlinuz"))
    };
    let mut all: Vec<Kernel> = machine
        .names("/lib/modules")
        .into_iter()
        .filter(|release| image(release))
        .map(|release| {
            let dir = format!("/lib/modules/{release}");
            let dep = machine.text(&format!("{dir}/modules.dep")).is().unwrap_or_default();
            let names = dep.lines().filter_map(|line| line.split(':').next()?.rsplit('/').next()?.split_once(".ko"));
            let driver = names.map(|(name, _)| name).any(super::is_driver);
            Kernel { headers: machine.exists(&format!("{dir}/build")), driver, release }
        })
        .collect();
    all.sort_by(|a, b| newer(&a.release, &b.release));
    all
}

/// Versions as people read them: runs of digits by their value, all else by its bytes.
pub(crate) fn newer(a: &str, b: &str) -> Ordering {
    let runs = |text: &str| {
        let mut all: Vec<(u64, String)> = Vec::new();
        let mut digits = false;
        for c in text.chars() {
            let this = c.is_ascii_digit();
            match all.last_mut() {
                Some((_, run)) if this == digits => run.push(c),
                _ => all.push((0, c.to_string())),
            }
            digits = this;
        }
        all.iter_mut().for_each(|(value, run)| *value = run.parse().unwrap_or(0));
        all
    };
    runs(a).cmp(&runs(b))
}

/// NVreg_DynamicPowerManagement as the running module has it, else as modprobe.d sets it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Power {
    pub running: Option<(u32, Source)>,
    pub written: Vec<Line>,
}

pub(super) fn power(machine: &dyn Machine) -> Power {
    const PARAMS: &str = "/proc/driver/nvidia/params";
    let mut power = Power::default();
    let text = machine.text(PARAMS).is().unwrap_or_default();
    for (number, line) in (1u32..).zip(text.lines()) {
        if let Some(value) = line.strip_prefix("DynamicPowerManagement:").and_then(|value| value.trim().parse().ok()) {
            power.running = Some((value, Source::line(PARAMS, number)));
        }
    }
    for dir in DIRS {
        for name in machine.names(dir).iter().filter(|name| name.ends_with(".conf")) {
            let path = format!("{dir}/{name}");
            let text = machine.text(&path).is().unwrap_or_default();
            for line in Modprobe::parse(&text).lines() {
                let Directive::Options { module, options } = &line.what else { continue };
                let mut set = options.iter().filter(|word| word.starts_with("NVreg_DynamicPowerManagement="));
                if let (true, Some(word)) = (super::is_driver(module), set.next()) {
                    power.written.push(Line { source: Source::line(&path, line.line), text: word.clone() });
                }
            }
        }
    }
    power
}

/// Lines "NVRM: Xid" of the running boot, in a log that is a file. Unreadable: for root alone.
pub(super) fn xids(machine: &dyn Machine) -> Fact<Vec<Line>> {
    const LOGS: [&str; 3] = ["/var/log/kern.log", "/var/log/syslog", "/var/log/messages"];
    for path in LOGS {
        let seen = match machine.text(path) {
            // A recording of before this was asked.
            Seen::Absent | Seen::Unreadable(Reason::NotCaptured) => continue,
            Seen::Is(text) => {
                let mut found = Vec::new();
                for (number, line) in (1u32..).zip(text.lines()) {
                    if line.contains("Linux version ") {
                        found.clear();
                    } else if line.contains("NVRM: Xid (") {
                        found.push(Line { source: Source::line(path, number), text: line.trim().to_owned() });
                    }
                }
                Seen::Is(found)
            }
            Seen::Unreadable(reason) => Seen::Unreadable(reason),
        };
        return Fact::new(seen, Source::file(path));
    }
    Fact::new(Seen::Absent, Source::file(LOGS[0]))
}

/// nvidia-persistenced: its unit is there, and whether it is started at every boot.
pub(super) fn persistenced(machine: &dyn Machine) -> Fact<bool> {
    let unit = "nvidia-persistenced.service";
    let dirs = ["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];
    let Some(dir) = dirs.iter().find(|dir| machine.exists(&format!("{dir}/{unit}"))) else {
        return Fact::new(Seen::Absent, Source::file(format!("/usr/lib/systemd/system/{unit}")));
    };
    let wants = format!("/etc/systemd/system/multi-user.target.wants/{unit}");
    let enabled = machine.link(&wants).is_there();
    // A unit without an [Install] section is started by udev, as Ubuntu does it.
    let installs = machine.text(&format!("{dir}/{unit}")).is().is_some_and(|text| text.contains("[Install]"));
    Fact::new(if installs { Seen::Is(enabled) } else { Seen::Absent }, Source::file(wants))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_ordered_as_people_read_them() {
        let mut all = vec!["6.1.0-9-amd64", "6.12.48+deb13-amd64", "6.1.0-50-amd64", "5.15.0-130-generic"];
        all.sort_by(|a, b| newer(a, b));
        assert_eq!(all, ["5.15.0-130-generic", "6.1.0-9-amd64", "6.1.0-50-amd64", "6.12.48+deb13-amd64"]);
        assert_eq!(newer("6.1", "6.1"), Ordering::Equal);
        assert_eq!(newer("", "99999999999999999999999"), Ordering::Less);
    }
}

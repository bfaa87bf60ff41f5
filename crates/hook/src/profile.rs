//! EGL's application profile: which of the machine's cards are this container's (EGLVisibleDGPUDevices, a mask by minor).

use rustix::fs::FileType;

use crate::Report;
use crate::root::{Result, Root};

const DIR: &str = "/etc/nvidia/nvidia-application-profiles-rc.d";
const NAME: &str = "10-container.conf";

pub fn write(root: &Root, report: &mut Report) -> Result<()> {
    let Ok(dev) = root.open_dir("/dev") else { return Ok(()) };
    let names = root.list(&dev)?;
    // rootless engines bind the nodes: what the directory says of their kind is true all the same
    let nodes = names.iter().filter(|name| name.kind == FileType::CharacterDevice);
    let mask = mask(nodes.map(|name| name.name.as_str()));
    if mask == 0 {
        return Ok(());
    }
    let done = root.make_dir(DIR, false).and_then(|dir| root.write(&dir, NAME, text(mask).as_bytes(), 0o444));
    match done {
        Ok(()) => report.changed.push(format!("{DIR}/{NAME}")),
        Err(error) if error.left_alone() => report.warnings.push(format!("{error}; it is left as it is")),
        Err(error) => return Err(error),
    }
    Ok(())
}

/// "nvidia0", "nvidia5": bits 0 and 5. Minors from 64 have no bit.
fn mask<'a>(names: impl Iterator<Item = &'a str>) -> u64 {
    let minors = names.filter_map(|name| {
        let digits = name.strip_prefix("nvidia").filter(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))?;
        digits.parse::<u32>().ok().filter(|minor| *minor < 64)
    });
    minors.fold(0, |mask, minor| mask | 1 << minor)
}

/// The driver's README, "Application Profiles": a rule without a pattern is for every program.
fn text(mask: u64) -> String {
    let profile = serde_json::json!({
        "profiles": [{ "name": "_container_", "settings": ["EGLVisibleDGPUDevices", mask] }],
        "rules": [{ "pattern": [], "profile": "_container_" }],
    });
    format!("{profile}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_bits() {
        let names = ["nvidia0", "nvidia5", "nvidiactl", "nvidia-uvm", "nvidia64", "nvidia", "null", "nvidia63"];
        assert_eq!(mask(names.into_iter()), 1 | 1 << 5 | 1 << 63);
        assert!(text(33).contains("[\"EGLVisibleDGPUDevices\",33]"), "{}", text(33));
    }
}

//! NVIDIA's own installer in a plan.

use serde::{Deserialize, Serialize};

use crate::{Builds, Digest};

/// A driver that lies here as NVIDIA's `.run` file, and what was found in it. Given by the user: nothing is downloaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriverFile {
    /// Absolute.
    pub path: String,
    /// Of the whole file, which was checked against its own sums when the plan was made.
    pub sha256: Digest,
    /// "580.65.06"
    pub version: String,
    /// As `uname -m` says it.
    pub arch: String,
}

/// Running it, unattended. Undo runs the uninstaller that it leaves behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunFileOp {
    pub file: DriverFile,
    /// The open kernel modules, not the proprietary ones.
    pub open: bool,
    /// The modules are DKMS's, so that kernel updates get theirs.
    pub dkms: bool,
    pub builds: Builds,
}

/// The uninstaller that the installer leaves (nvidia-installer's README, "--uninstall").
pub const UNINSTALLER: &str = "/usr/bin/nvidia-uninstall";

impl RunFileOp {
    /// The command that installs and asks nothing: the installer's own `--advanced-options` explain each word. The modules
    /// are not loaded: nouveau may still have the card until the next boot.
    pub fn argv(&self) -> Vec<String> {
        let branch: u32 = self.file.version.split('.').next().and_then(|text| text.parse().ok()).unwrap_or(0);
        let mut argv: Vec<String> = ["sh", &self.file.path, "--silent"].map(str::to_owned).to_vec();
        argv.extend(["--no-x-check", "--no-nouveau-check"].map(str::to_owned));
        argv.push(format!("--kernel-name={}", self.builds.release));
        if self.dkms {
            argv.push("--dkms".into());
        }
        match (branch, self.open) {
            (560.., open) => {
                argv.push(format!("--kernel-module-type={}", if open { "open" } else { "proprietary" }));
            }
            // before, the directory of the modules' sources was named
            (515..560, true) => argv.push("--kernel-module-build-directory=kernel-open".into()),
            _ => {}
        }
        if branch >= 525 {
            argv.push("--skip-module-load".into());
        }
        argv
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(version: &str, open: bool) -> String {
        let file = DriverFile {
            path: "/root/driver.run".into(),
            sha256: Digest::of(b""),
            version: version.into(),
            arch: "x86_64".into(),
        };
        let builds = Builds { release: "6.1.0-35-amd64".into(), any_of: vec!["nvidia".into()] };
        RunFileOp { file, open, dkms: true, builds }.argv().join(" ")
    }

    #[test]
    fn the_installers_words_follow_its_branch() {
        let front = "sh /root/driver.run --silent --no-x-check --no-nouveau-check --kernel-name=6.1.0-35-amd64 --dkms";
        assert_eq!(op("580.65.06", false), format!("{front} --kernel-module-type=proprietary --skip-module-load"));
        let old = "--kernel-module-build-directory=kernel-open --skip-module-load";
        assert_eq!(op("535.261.03", true), format!("{front} {old}"));
        assert_eq!(op("470.256.02", false), front);
    }
}

//! What both forms of the lab need of their tests' surroundings.

use std::path::PathBuf;

use sim::lab::LabError;

/// `target/debug/thruway`: two floors above this test, if it was built.
pub fn thruway() -> Option<PathBuf> {
    let test = std::env::current_exe().ok()?;
    Some(test.parent()?.parent()?.join("thruway")).filter(|path| path.is_file())
}

/// Kept between runs.
pub fn cache() -> PathBuf {
    std::env::temp_dir().join("thruway-lab-cache")
}

/// Whether the lab cannot be made here, which is no failure of ours: a package is lacking, or apt has no network.
pub fn lacking(error: &LabError) -> bool {
    match error {
        LabError::Missing { .. } | LabError::Unfit(_) => true,
        LabError::Tool { command, .. } => command.starts_with("apt-"),
        _ => false,
    }
}

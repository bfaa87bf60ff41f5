//! Having the specs written anew by `thruway cdi refresh`, which knows the driver and its cards; we do not.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A card that was not opened since boot may take its driver seconds to wake.
const LIMIT: Duration = Duration::from_secs(20);

/// Runs it once. The answer is why it did not work.
pub fn refresh() -> Result<(), String> {
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join("thruway")));
    let places = beside.into_iter().chain([PathBuf::from("/usr/bin/thruway")]);
    let Some(program) = places.into_iter().find(|place| place.is_file()) else {
        return Err("thruway is not installed beside this program or in /usr/bin".to_owned());
    };
    let started = Command::new(&program)
        .args(["cdi", "refresh"])
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn();
    let mut child = started.map_err(|error| format!("{} could not be started: {error}", program.display()))?;
    let since = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("{} cdi refresh ended with {status}", program.display())),
            Ok(None) if since.elapsed() > LIMIT => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("{} cdi refresh took longer than {} s", program.display(), LIMIT.as_secs()));
            }
            Ok(None) => std::thread::sleep(pause),
            Err(error) => return Err(error.to_string()),
        }
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

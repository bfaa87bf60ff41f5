//! The shim: a container's configuration is edited where it asks for a GPU; then the low-level runtime takes over.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use oci::apply;
use oci::config::Look;
use oci::settings::Settings;

use crate::grant::{self, Answer};
use crate::say::Say;
use crate::{argv, files, host, lowlevel, prestart, setup};

/// Does what has to be done before, and becomes the low-level runtime.
pub fn main(args: &[OsString]) -> i32 {
    let rest = args.get(1..).unwrap_or_default();
    let line = argv::read(rest);
    let mut say = Say { log: line.log.clone(), json: line.log_json, debug: None, name: "thruway-runtime" };
    if line.version && line.verb.is_none() {
        let _ = writeln!(std::io::stdout(), "thruway-runtime version {}", env!("CARGO_PKG_VERSION"));
    }
    let (settings, broken) = match setup::settings() {
        Ok(settings) => (settings, None),
        Err(says) => (Settings::default(), Some(says)),
    };
    say.debug = settings.debug.as_ref().map(PathBuf::from);
    if line.creates()
        && let Err(says) = edit(&line, &settings, broken.as_deref(), &say)
    {
        say.error(&says);
        return 1;
    }
    match lowlevel::find(&settings.runtimes) {
        Ok(runtime) => say.error(&lowlevel::become_it(&runtime, rest)),
        Err(says) => say.error(&says),
    }
    1
}

fn edit(line: &argv::Line, settings: &Settings, broken: Option<&str>, say: &Say) -> Result<(), String> {
    let path = match (&line.config, &line.bundle) {
        (Some(config), _) => config.clone(),
        (None, Some(bundle)) => bundle.join("config.json"),
        (None, None) => PathBuf::from("config.json"),
    };
    let text = match files::read(&path) {
        Ok(text) => text,
        // the low-level runtime has its own words for a bundle that is none
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(format!("{} cannot be read: {error}", path.display())),
    };
    let bad = |error: &dyn std::fmt::Display| {
        format!("{} is not what the runtime specification describes: {error}", path.display())
    };
    let look = Look::at(&text).map_err(|error| bad(&error))?;
    let mut new = None;
    match grant::answer(&look, settings) {
        // broken settings stop whoever asks, since its policy is not known, and nobody else
        Ok(Answer::Nothing) => {
            if let Some(broken) = broken {
                say.warning(broken);
            }
        }
        _ if broken.is_some() => return Err(broken.unwrap_or_default().to_owned()),
        Ok(Answer::Ignored(says)) => say.warning(&says),
        Ok(Answer::Given(given)) => {
            let edits: Vec<_> = given.edits.iter().map(AsRef::as_ref).collect();
            let mut live = |path: &str| given.nodes.get(path).copied().or_else(|| host::node(path));
            let applied = apply::apply(&text, &edits, given.way, &mut live).map_err(|error| error.to_string())?;
            given.warnings.iter().chain(&applied.warnings).for_each(|says| say.warning(says));
            say.info(&format!("{}: {}", path.display(), given.what));
            if line.systemd_cgroup {
                prestart::lasting::links(&given.edits);
            }
            new = Some(applied.text);
        }
        Err(says) => return Err(says),
    }
    // whoever comes through here needs no hook, and one that was refused must not get its card by one
    if look.nvidia_hook {
        let without = apply::without_nvidia_hook(new.as_deref().unwrap_or(&text)).map_err(|error| bad(&error))?;
        new = without.or(new);
    }
    if let Some(new) = new.filter(|new| *new != text) {
        files::replace(&path, &new).map_err(|error| format!("{} cannot be replaced: {error}", path.display()))?;
    }
    Ok(())
}

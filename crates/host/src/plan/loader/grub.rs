//! GRUB with a generated grub.cfg: Debian's family by a drop-in of our own, Arch, SUSE and others in /etc/default/grub.
//!
//! Debian's grub-mkconfig also reads /etc/default/grub.d/*.cfg, later names winning; upstream's reads the one file
//! alone (grub-mkconfig(8); GRUB manual, "Simple configuration handling").

use formats::shellvars::ShellVars;

use super::super::{files, hold};
use super::Wish;
use crate::plan::steps::Steps;

const DEFAULT: &str = "/etc/default/grub";

pub(super) fn edit(wish: &Wish<'_>, steps: &mut Steps<'_>) {
    let tool = steps.facts.boot.mkconfig.clone();
    if wish.stands || write(wish, steps) {
        steps.run(tool, wish.because);
    }
}

/// The source files alone; false where they could not be edited.
pub(super) fn write(wish: &Wish<'_>, steps: &mut Steps<'_>) -> bool {
    let facts = steps.facts;
    // Each variable that holds what must go is edited where it stands.
    for (path, text) in &facts.texts {
        let ours = path == DEFAULT || path.starts_with("/etc/default/grub.d/");
        if !ours || wish.drop.is_empty() || !text.is_there() {
            continue;
        }
        let text = steps.text(path);
        let edited = each_variable(&text, |value| wish.dropped(value));
        if edited != text {
            let title = format!("take {} from the kernel command line", wish.drop.join(" "));
            steps.write(path, edited, 0o644, title, wish.because);
        }
    }
    let written = formats::kcmdline::Cmdline::parse(facts.boot.written.get().map_or("", String::as_str));
    if wish.add.iter().all(|token| written.has(token)) {
        return true;
    }
    let title = format!("add {} to the kernel command line", wish.add.join(" "));
    if facts.distro.debian_family() {
        steps.write(files::GRUB, hold::grub(wish.add), 0o644, title, wish.because);
        return true;
    }
    let text = steps.text(DEFAULT);
    let edited = match ShellVars::parse(&text) {
        Ok(vars) => {
            let mut env = Default::default();
            vars.eval(&mut env);
            let now = env.get("GRUB_CMDLINE_LINUX_DEFAULT").cloned().unwrap_or_default();
            vars.set("GRUB_CMDLINE_LINUX_DEFAULT", &wish.added(&now))
        }
        Err(error) => {
            wish.refuse(steps, format!("{DEFAULT}:{}: {}", error.line, error.what), "mend that line, and plan again");
            return false;
        }
    };
    steps.write(DEFAULT, edited, 0o644, title, wish.because);
    true
}

/// The text with both variables changed by `change`, where that changes them. A value that holds a command is left:
/// what it would expand to is not known.
fn each_variable(text: &str, change: impl Fn(&str) -> String) -> String {
    let mut text = text.to_owned();
    for name in ["GRUB_CMDLINE_LINUX", "GRUB_CMDLINE_LINUX_DEFAULT"] {
        let Ok(vars) = ShellVars::parse(&text) else { continue };
        if vars.last(name).is_none_or(|assignment| assignment.guess) {
            continue;
        }
        let mut env = Default::default();
        vars.eval(&mut env);
        let now = env.get(name).cloned().unwrap_or_default();
        let new = change(&now);
        if new != now {
            text = vars.set(name, &new);
        }
    }
    text
}

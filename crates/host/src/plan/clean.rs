//! Takes away what old guides left: each leftover where it stands, and nothing beside it.

use std::collections::BTreeMap;

use formats::modprobe::{Directive, Modprobe};
use model::{Before, Change, Digest, Effective, Layer, Op, Risk, Seen, Undo};

use super::cmdline;
use super::steps::Steps;
use crate::cruft::{self, Remove};
use crate::facts::{Facts, is_module};

const WHY: &str = "host/cruft";

/// True where something that goes into the initramfs was changed.
pub(super) fn add(facts: &Facts, steps: &mut Steps<'_>) -> bool {
    let found = cruft::find(facts);
    let mut tokens = Vec::new();
    let mut files: BTreeMap<&str, Vec<&Remove>> = BTreeMap::new();
    for leftover in &found {
        match &leftover.remove {
            Remove::Token(token) => tokens.push(token.clone()),
            remove @ (Remove::Option { path, .. } | Remove::Line { path, .. }) => {
                files.entry(path.as_str()).or_default().push(remove);
            }
        }
    }
    let mut touched = false;
    for (path, removes) in files {
        let text = steps.text(path);
        let edited = without(&text, &removes);
        if edited == text {
            continue;
        }
        touched = true;
        let title = format!("take what old guides left out of {path}");
        // A file that held nothing else is itself a leftover.
        if edited.trim().is_empty() {
            remove_file(steps, path, &text, title);
        } else {
            steps.write(path, edited, 0o644, title, WHY);
        }
    }
    cmdline::change(facts, &[], &tokens, WHY, steps);
    if facts.boot.effective.get().is_some_and(|line| line.contains("pcie_acs_override=")) {
        steps.plan.notes.push(
            "pcie_acs_override is left where it is: without it groups may grow together; see thruway explain host/acs-override"
                .into(),
        );
    }
    touched
}

fn remove_file(steps: &mut Steps<'_>, path: &str, text: &str, title: String) {
    // An edit of this plan before it would have been of the same file: then the words differ, and it is kept.
    if !matches!(steps.facts.texts.get(path), Some(Seen::Is(now)) if now == text) {
        return;
    }
    steps.plan.changes.push(Change {
        layer: Layer::Host,
        title,
        op: Op::RemoveFile { path: path.into() },
        expects: Before::File(Digest::of(text.as_bytes())),
        because: vec![WHY.into()],
        risk: vec![Risk::Reboot],
        effective: Effective::NextBoot,
        undo: Undo::Exact,
    });
}

/// The text without these; every other byte stands as it stood.
fn without(text: &str, removes: &[&Remove]) -> String {
    let gone = |number: usize| {
        removes.iter().any(|remove| matches!(remove, Remove::Line { line, .. } if *line as usize == number + 1))
    };
    let lines = text.split_inclusive('\n').enumerate();
    let mut text: String = lines.filter(|(number, _)| !gone(*number)).map(|(_, line)| line).collect();
    for remove in removes {
        let Remove::Option { module, option, .. } = remove else { continue };
        let only = |what: &Directive| {
            matches!(what, Directive::Options { module: m, options }
                if is_module(m, module) && options.iter().all(|o| o == option))
        };
        text = Modprobe::parse(&text).without(only);
        let more = Modprobe::parse(&text).lines().iter().any(|line| {
            matches!(&line.what, Directive::Options { module: m, options } if is_module(m, module) && options.contains(option))
        });
        if more {
            text = one_word_less(&text, module, option);
        }
    }
    text
}

/// A word with the blank before it, in the first `options` line of the module that has it.
fn one_word_less(text: &str, module: &str, option: &str) -> String {
    let mut done = false;
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let its = words.next() == Some("options") && words.next().is_some_and(|m| is_module(m, module));
        if done || !its && !line.starts_with([' ', '\t']) {
            return line.to_owned();
        }
        for (at, _) in line.match_indices(option) {
            let front = line.get(..at).unwrap_or_default();
            let back = line.get(at + option.len()..).unwrap_or_default();
            let whole = front.ends_with([' ', '\t']) && (back.is_empty() || back.starts_with(char::is_whitespace));
            if whole {
                done = true;
                return format!("{}{back}", front.strip_suffix([' ', '\t']).unwrap_or(front));
            }
        }
        line.to_owned()
    };
    text.split_inclusive('\n').map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn option(option: &str) -> Remove {
        Remove::Option { path: String::new(), module: "kvm".into(), option: option.into() }
    }

    #[test]
    fn the_word_goes_and_its_neighbours_stay() {
        let text = "# mine\r\noptions kvm nested=1 ignore_msrs=1\r\noptions kvm_amd nested=1\n";
        let less = without(text, &[&option("ignore_msrs=1")]);
        assert_eq!(less, "# mine\r\noptions kvm nested=1\r\noptions kvm_amd nested=1\n");
        assert_eq!(without("options kvm ignore_msrs=1\n", &[&option("ignore_msrs=1")]), "");
        let text = "options kvm ignore_msrs=10\n";
        assert_eq!(without(text, &[&option("ignore_msrs=1")]), text);
        let line = Remove::Line { path: String::new(), line: 2 };
        assert_eq!(without("vfio\nvfio_virqfd\n# end", &[&line]), "vfio\n# end");
    }

    proptest! {
        #[test]
        fn nothing_but_what_is_named_goes(text in "(options kvm|options vfio| nested=1| ignore_msrs=1|\n|\r\n|#|[a-z =\\\\PC]){0,30}") {
            prop_assert_eq!(without(&text, &[]), text.clone());
            let less = without(&text, &[&option("ignore_msrs=1")]);
            prop_assert!(less.len() <= text.len());
            prop_assert_eq!(less.matches("nested=1").count() , text.matches("nested=1").count());
        }
    }
}

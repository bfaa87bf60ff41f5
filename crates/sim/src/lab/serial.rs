//! What the guest's script says on the serial console, one line each: `LAB: STEP ok|fail EVIDENCE`, `LAB> TEXT` for
//! what a command printed, `LAB~ TEXT` for what it is about to do, `LAB: end`. All else is the kernel's console. The
//! guest is not trusted: lines are bounded by the reader and control characters are left to the printer.

use serde::Serialize;

/// Every step of the guest's script, in order: its id and what it shows.
pub const STEPS: &[(&str, &str)] = &[
    ("boot", "the kernel boots with an IOMMU"),
    ("card", "the card is on the PCI bus"),
    ("group", "its two functions share one IOMMU group and nobody else does"),
    ("audio", "a sound driver holds the audio function"),
    ("seen", "thruway sees the card"),
    ("told", "and where it sits on the host, out of the firmware's SMBIOS"),
    ("bind", "thruway host bind is carried out"),
    ("bind-gpu", "the GPU goes to vfio-pci"),
    ("bind-audio", "the audio function goes to vfio-pci"),
    ("node", "the group's node appears"),
    ("seen-vfio", "thruway says vfio-pci"),
    ("rolled-back", "a bind that the kernel refuses halfway is taken back"),
    ("in-use", "unbind names who uses the group, and tears nothing from it"),
    ("unbind", "thruway host unbind is carried out, its user ended as told"),
    ("user-gone", "the user is gone"),
    ("back-gpu", "the GPU goes back"),
    ("back-audio", "the audio function goes back to its driver"),
    ("node-gone", "the group's node is gone"),
    ("seen-back", "thruway sees the card as before"),
];

/// A step of the script and how it went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    pub id: String,
    /// What it shows, from the form's list; empty for a step that is not listed there.
    pub title: &'static str,
    pub ok: bool,
    /// What the guest saw. Untrusted text.
    pub evidence: String,
}

/// One line of the console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    Step(Step),
    /// Printed by a command in the guest.
    Said(String),
    /// What the script is about to do.
    Doing(String),
    /// The script is through.
    End,
    /// The kernel's, or no line of the protocol.
    Console(String),
}

/// Reads one line, with or without its line end. `steps` has the titles.
pub fn parse(line: &str, steps: &[(&str, &'static str)]) -> Line {
    let line = line.trim_end_matches(['\r', '\n']);
    let console = || Line::Console(line.to_owned());
    // Firmware and kernel may have left the cursor anywhere: the mark counts, not the column.
    if let Some((_, text)) = line.split_once("LAB> ") {
        return Line::Said(text.to_owned());
    }
    if let Some((_, text)) = line.split_once("LAB~ ") {
        return Line::Doing(text.to_owned());
    }
    let Some((_, text)) = line.split_once("LAB: ") else { return console() };
    if text == "end" {
        return Line::End;
    }
    let mut words = text.splitn(3, ' ');
    match (words.next(), words.next()) {
        (Some(id), Some(state @ ("ok" | "fail"))) if !id.is_empty() => {
            let title = steps.iter().find(|(known, _)| *known == id).map_or("", |(_, title)| *title);
            let evidence = words.next().unwrap_or_default().to_owned();
            Line::Step(Step { id: id.to_owned(), title, ok: state == "ok", evidence })
        }
        _ => console(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read_and_the_rest_is_console() {
        let step = Step {
            id: "node".into(),
            title: "the group's node appears",
            ok: true,
            evidence: "/dev/vfio/5 is there".into(),
        };
        assert_eq!(parse("LAB: node ok /dev/vfio/5 is there\r\n", STEPS), Line::Step(step.clone()));
        assert_eq!(parse("\u{1b}[2JLAB: node ok /dev/vfio/5 is there", STEPS), Line::Step(step));
        assert!(matches!(parse("LAB: new fail", STEPS), Line::Step(Step { ok: false, title: "", .. })));
        assert_eq!(parse("LAB>   driver  none", STEPS), Line::Said("  driver  none".into()));
        assert_eq!(parse("LAB~ update-grub", STEPS), Line::Doing("update-grub".into()));
        assert_eq!(parse("LAB: end\r", STEPS), Line::End);
        for other in ["LAB: ", "LAB: node", "LAB: node perhaps", "LAB:  ok", "[    1.0] vfio-pci 0000:01:00.0", ""] {
            assert!(matches!(parse(other, STEPS), Line::Console(_)), "{other}");
        }
    }

    #[test]
    fn the_script_says_every_step() {
        let script = super::super::image::SCRIPT;
        for (id, _) in STEPS {
            assert!(script.contains(&format!("{id} ")), "{id} is in no line of the script");
        }
    }
}

//! One floor: its plan made there, shown here, asked for, and carried out there.

use crate::climb::word;
use crate::remote::{self, Remote};
use crate::visit::Visit;
use crate::walk::{Stop, Trouble, Walker};

/// So often a floor is planned, where it changes between its plan and its apply.
const TRIES: usize = 5;

/// What thruway says where somebody else is at a change: what a walk that was cut off had begun goes on to its end.
const BUSY: &str = "another thruway is changing this machine";
/// What it says of a plan whose machine has become another: by that change, or by what its journal took back first.
const STALE: &str = "no longer fits this machine";

/// What one try came to.
enum Tried {
    /// In words, and whether something was changed.
    Done(String, bool),
    /// The machine changed meanwhile, in words.
    Again(String),
}

impl Walker<'_> {
    /// Plans one floor there, shows it, asks, and carries it out there.
    pub fn floor(&mut self, remote: &Remote<'_>, visit: &Visit, floor: &str, extra: &[&str]) -> Result<(), Stop> {
        let role = visit.place.role;
        self.step(role, &format!("{floor}/apply"), &format!("the {floor} floor"), |walker| {
            if !walker.go.dry_run && role != "here" {
                walker.hold_again(visit)?;
            }
            let mut last = String::new();
            for _ in 0..TRIES {
                match walker.carry(remote, visit, floor, extra)? {
                    Tried::Done(says, did) => return Ok(((), says, did)),
                    Tried::Again(says) => {
                        walker.line(&format!("{says}; it is planned anew"));
                        last = says;
                    }
                }
                walker.idle(visit)?;
            }
            Err(Trouble::says(format!("{} changes while it is planned: {last}", visit.place.at)))
        })
    }

    fn carry(&mut self, remote: &Remote<'_>, visit: &Visit, floor: &str, extra: &[&str]) -> Result<Tried, Trouble> {
        let id = self.state.kept.id.clone();
        let word = word(floor);
        let file = visit.file(&format!("plan-{floor}.json"));
        let mut words = vec![word, "plan"];
        words.extend(extra);
        let shown = words.clone();
        words.extend(["--by", &id, "--out", &file, "--json"]);
        self.shown(&remote.command(&remote.words(&shown)));
        let plan = remote.plan(&words)?;
        if !plan.refusals.is_empty() {
            let text = remote.run(&remote.words(&shown), remote::SHORT, &mut |_| {})?;
            let words = crate::tame(&String::from_utf8_lossy(&text.out));
            return Err(Trouble::Failed { says: format!("the {floor} floor's plan is refused"), words });
        }
        if plan.changes.is_empty() {
            return Ok(Tried::Done("it is so already".into(), false));
        }
        let text = remote.run(&remote.words(&[word, "apply", &file, "--dry-run"]), remote::SHORT, &mut |_| {})?;
        if text.code == 2 && text.err.contains(STALE) {
            return Ok(Tried::Again("it has changed since it was planned".into()));
        }
        self.emit(crate::What::Plan { text: crate::tame(&String::from_utf8_lossy(&text.out)) });
        let count = plan.changes.len();
        if self.go.dry_run {
            let titles: Vec<_> = plan.changes.iter().map(|change| crate::tame(&change.title)).collect();
            return Ok(Tried::Done(format!("{count} would be made: {}", titles.join("; ")), false));
        }
        self.agreed(&format!("Carry this out on {}?", visit.place.at))?;
        self.state.touch(visit.place.role)?;
        let words = remote.words(&[word, "apply", &file, "--yes"]);
        self.shown(&remote.command(&words));
        let ran = remote.run(&words, remote::LONG, &mut |line| self.line(line))?;
        if ran.code != 0 {
            if ran.err.contains(BUSY) {
                return Ok(Tried::Again("somebody else was at a change there".into()));
            }
            if ran.err.contains(STALE) {
                return Ok(Tried::Again("it has changed since it was planned".into()));
            }
            return Err(remote::said(&ran).into());
        }
        let waits = plan.changes.iter().any(|change| change.effective == "next_boot");
        let made = if count == 1 { "1 change".to_owned() } else { format!("{count} changes") };
        Ok(Tried::Done(format!("{made}{}", if waits { ", effective at the next boot" } else { "" }), true))
    }

    /// Takes back what this way did by a machine's journal: the numbers.
    pub fn undo_ours(&mut self, remote: &Remote<'_>, visit: &Visit, words: &[&str]) -> Result<Vec<u64>, Trouble> {
        for _ in 1..TRIES {
            match remote.undo(words) {
                Err(remote::Answer::Said { says }) if says.contains(BUSY) => {
                    self.line("somebody else was at a change there; it is waited for");
                    self.idle(visit)?;
                }
                undone => return Ok(undone?.undone),
            }
        }
        Ok(remote.undo(words)?.undone)
    }
}

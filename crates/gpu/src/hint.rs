//! What the hypervisor told this machine of where its cards sit on the host, and which card each hint is of.
//!
//! A hint is untrusted: it decides nothing but what is shown and what labels say. One that fits no card, or more than
//! one, is of none. See [`formats::hint`] for its form.

use formats::hint::{BadHint, Hint, MOST, PREFIX};
use formats::smbios::oem_strings;
use machine::{DMI_TABLE, Machine};
use model::{Bdf, Seen};
use serde::Serialize;

use crate::{Card, Inventory};

/// One OEM string that begins as a hint does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    Hint(Hint),
    Bad(BadHint),
}

/// A hint that says nothing of any card here, and why, in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Astray {
    pub hint: Option<Hint>,
    pub why: String,
}

/// Reads SMBIOS's structure table (root only, mode 0400). Absent: no such table, or no hint in it.
pub(crate) fn observe(machine: &dyn Machine) -> Seen<Vec<Told>> {
    machine.read(DMI_TABLE).and_then(|table| {
        let hints = oem_strings(&table).into_iter().filter(|text| text.starts_with(PREFIX)).take(MOST);
        let hints: Vec<Told> = hints
            .map(|text| match Hint::parse(&text) {
                Ok(hint) => Told::Hint(hint),
                Err(bad) => Told::Bad(bad),
            })
            .collect();
        if hints.is_empty() { Seen::Absent } else { Seen::Is(hints) }
    })
}

/// The root port above a function, out of where /sys/bus/pci/devices/BDF leads:
/// "../../../devices/pci0000:00/0000:00:1c.0/0000:01:00.0". None on a root bus.
pub(crate) fn port_of(target: &str) -> Option<Bdf> {
    target.rsplit('/').nth(1)?.parse().ok()
}

impl Inventory {
    /// Where this card sits on the host, by the one hint that is of it and of no other card.
    pub fn place(&self, card: &Card) -> Option<&Hint> {
        let mut of_it = self.read_hints().filter(|hint| fits(hint, card));
        let hint = of_it.next().filter(|_| of_it.next().is_none())?;
        (self.cards.iter().filter(|other| fits(hint, other)).count() == 1).then_some(hint)
    }

    /// The hints that contradict what is here.
    pub fn astray(&self) -> Vec<Astray> {
        let mut all = Vec::new();
        for told in self.hints.get().into_iter().flatten() {
            let hint = match told {
                Told::Hint(hint) => hint,
                Told::Bad(bad) => {
                    all.push(Astray { hint: None, why: format!("a hint cannot be read: {bad}") });
                    continue;
                }
            };
            let board = hint.board.map(|board| format!(", board {board}")).unwrap_or_default();
            let port = hint.port.map(|port| format!(", behind port {}", port.short())).unwrap_or_default();
            let what = format!("[{}{board}]{port}", hint.id);
            let cards = self.cards.iter().filter(|card| fits(hint, card)).count();
            let twins = self
                .read_hints()
                .filter(|other| (other.id, other.board, other.port) == (hint.id, hint.board, hint.port));
            let why = match (cards, twins.count()) {
                (0, _) => format!("a hint is of a card that is not here: {what}"),
                (1, 1) => continue,
                (1, many) => format!("{many} hints are of one card: {what}"),
                (many, _) => format!("a hint does not say of which of {many} cards it is: {what}"),
            };
            all.push(Astray { hint: Some(hint.clone()), why });
        }
        all
    }

    fn read_hints(&self) -> impl Iterator<Item = &Hint> {
        self.hints.get().into_iter().flatten().filter_map(|told| match told {
            Told::Hint(hint) => Some(hint),
            Told::Bad(_) => None,
        })
    }
}

fn fits(hint: &Hint, card: &Card) -> bool {
    hint.id == card.identity.id
        && hint.board.is_none_or(|board| Some(board) == card.identity.subsystem)
        && hint.port.is_none_or(|port| Some(port) == card.port)
}

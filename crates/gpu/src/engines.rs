//! A card's video engines as the card itself tells of them, beside what the table of its chip says.

use machine::codecs::{CodecsReport, DecodeCap, EncodeCap};
use machine::{Answer, Machine, Question};
use model::{Bdf, PciId, Reason, Seen};
use serde::Serialize;

use crate::codecs::{self, Codecs};
use crate::{Card, Inventory};

/// One card's engines.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Engines {
    pub bdf: Bdf,
    pub name: String,
    /// Absent: the driver does not show this card here.
    pub asked: Seen<Asked>,
    /// By chip, from a table; none for a chip that is not in it.
    pub table: Option<Codecs>,
    /// The most encoding sessions at once, over all cards of the machine; none: no limit.
    pub sessions_limit: Option<Limit>,
    /// nvmlDeviceGetEncoderStats.
    pub sessions: Seen<u32>,
}

/// What the card said.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Asked {
    pub decodes: Seen<Vec<DecodeCap>>,
    /// Absent: the card has no encoder.
    pub encodes: Seen<Vec<EncodeCap>>,
}

/// The driver's limit of encoding sessions on GeForce cards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Limit {
    pub sessions: u32,
    /// The driver's branch that has it.
    pub branch: u32,
}

/// Asks the cards, once for all of them, and answers for those of NVIDIA's.
pub fn observe(machine: &dyn Machine, inventory: &Inventory) -> (Vec<Engines>, Seen<(u32, u32)>) {
    let report = machine.ask(&Question::Codecs).and_then(|answer| match answer {
        Answer::Json(value) => match serde_json::from_value::<CodecsReport>(value) {
            Ok(report) => Seen::Is(report),
            Err(error) => Seen::Unreadable(Reason::Malformed(error.to_string())),
        },
        Answer::Nvml(_) => Seen::Absent,
    });
    let cards = inventory.cards.iter().filter(|card| card.identity.id.vendor == PciId::NVIDIA);
    let engines = cards.map(|card| one(inventory, card, &report)).collect();
    (engines, report.and_then(|report| report.nvenc_api))
}

fn one(inventory: &Inventory, card: &Card, report: &Seen<CodecsReport>) -> Engines {
    let bdf = card.identity.bdf;
    let asked = report.as_ref().and_then(|report| {
        let gpu = report.gpus.iter().find(|gpu| gpu.bus_id.parse::<Bdf>() == Ok(bdf));
        Seen::from(gpu.map(|gpu| Asked { decodes: gpu.decodes.clone(), encodes: gpu.encodes.clone() }))
    });
    let nvml = card.nvml.as_ref();
    let brand = nvml.and_then(|gpu| gpu.brand.get());
    let version = inventory.nvml.get().and_then(|report| report.driver_version.get());
    let branch = version.and_then(|version| version.split('.').next()?.parse().ok());
    Engines {
        bdf,
        name: card.short_name().to_owned(),
        asked,
        table: codecs::of(card),
        sessions_limit: branch.filter(|_| brand.is_some_and(|brand| brand.starts_with("GeForce"))).map(limit),
        sessions: nvml.map_or(Seen::Absent, |gpu| gpu.encoder_sessions.clone()),
    }
}

/// Source: the limits that NVIDIA's support matrix and Jellyfin's documentation name, by driver branch.
fn limit(branch: u32) -> Limit {
    let sessions = match branch {
        ..530 => 3,
        530..550 => 5,
        550..590 => 8,
        _ => 12,
    };
    Limit { sessions, branch }
}

/// Decoding combinations gathered by codec and size: what one line of a report says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    pub codec: &'a str,
    /// Chroma and its depths: ("420", [8, 10]).
    pub formats: Vec<(&'a str, Vec<u8>)>,
    pub max: (u32, u32),
    pub engines: u8,
}

/// In the order in which the codecs come.
pub fn rows(caps: &[DecodeCap]) -> Vec<Row<'_>> {
    let mut rows: Vec<Row<'_>> = Vec::new();
    for cap in caps {
        let max = (cap.max_width, cap.max_height);
        let same = |row: &&mut Row<'_>| row.codec == cap.codec && row.max == max && row.engines == cap.engines;
        let row = match rows.iter_mut().find(same) {
            Some(row) => row,
            None => {
                rows.push(Row { codec: &cap.codec, formats: Vec::new(), max, engines: cap.engines });
                let Some(last) = rows.last_mut() else { continue };
                last
            }
        };
        match row.formats.iter_mut().find(|(chroma, _)| *chroma == cap.chroma) {
            Some((_, depths)) => depths.push(cap.depth),
            None => row.formats.push((&cap.chroma, vec![cap.depth])),
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cap(codec: &str, chroma: &str, depth: u8, max: u32) -> DecodeCap {
        DecodeCap {
            codec: codec.into(),
            chroma: chroma.into(),
            depth,
            engines: 7,
            max_width: max,
            max_height: max,
            min_width: 48,
            min_height: 16,
            max_macroblocks: 65536,
        }
    }

    #[test]
    fn rows_gather_depths_and_keep_sizes_apart() {
        let caps = [
            cap("hevc", "420", 8, 8192),
            cap("hevc", "420", 10, 8192),
            cap("hevc", "444", 8, 8192),
            cap("vp9", "420", 8, 8192),
            cap("vp9", "420", 10, 4096),
        ];
        let rows = rows(&caps);
        assert_eq!(rows.len(), 3);
        assert_eq!(rows[0].formats, [("420", vec![8, 10]), ("444", vec![8])]);
        assert_eq!((rows[1].codec, rows[1].max.0, rows[2].max.0), ("vp9", 8192, 4096));
    }

    #[test]
    fn limits_are_of_the_branch() {
        let limits = [470, 525, 530, 545, 550, 580, 590, 610].map(|branch| limit(branch).sessions);
        assert_eq!(limits, [3, 3, 5, 5, 8, 8, 12, 12]);
    }
}

//! The application floor's checks.

mod container;
mod decoders;
mod encoder;
mod places;
mod quality;

use formats::encodingxml::EncodingXml;
use gpu::codecs::Codecs;
use model::{Check, Fix, Reason, Seen, Source, Trouble, Verdict};

use crate::Facts;
use crate::observe::Config;

/// One row a check.
pub static CHECKS: &[Check<Facts>] = &[
    encoder::SETTINGS,
    encoder::HARDWARE_OFF,
    encoder::WITHOUT_NVENC,
    decoders::UNSUPPORTED,
    decoders::MISSING,
    quality::TONE_MAPPING,
    quality::OLD_DECODER_PATH,
    quality::PRESET_LOST,
    quality::FEW_THREADS,
    places::TRANSCODE_DIR,
    places::FOREIGN_FFMPEG,
    places::FIRST_CARD,
    places::USER_DENIED,
    container::VIDEO_CAPABILITY,
    container::SOFTWARE_FALLBACK,
    container::TRANSCODE_FAILED,
];

pub(crate) use places::NODES;

fn unknown(reason: &Reason, what: impl Into<String>) -> Verdict {
    Verdict::Unknown { reason: reason.clone(), what: what.into() }
}

/// Runs `judge` over each settings file with what the cards can do: the first trouble counts.
fn each(facts: &Facts, judge: fn(&Facts, &Config, &EncodingXml, &Codecs) -> Option<Verdict>) -> Verdict {
    if facts.configs.is_empty() {
        // Jellyfin may run here and keep its settings where we may not look.
        return match &facts.looked {
            Seen::Unreadable(reason) => unknown(reason, "Jellyfin's settings"),
            _ => Verdict::NotApplicable,
        };
    }
    let codecs = match facts.codecs() {
        Seen::Is(codecs) => codecs,
        Seen::Absent => match &facts.looked {
            Seen::Unreadable(reason) => return unknown(reason, "the cards of this machine"),
            _ => return Verdict::NotApplicable,
        },
        Seen::Unreadable(reason) => return unknown(&reason, "what the card can decode and encode"),
    };
    let mut could_not = None;
    for config in &facts.configs {
        match &config.xml {
            Seen::Is(xml) => {
                if let Some(verdict) = judge(facts, config, xml, &codecs) {
                    return verdict;
                }
            }
            Seen::Absent => {}
            Seen::Unreadable(reason) => could_not = Some(unknown(reason, config.path.clone())),
        }
    }
    could_not.unwrap_or(Verdict::Pass)
}

/// A setting as evidence.
fn shown(trouble: Trouble, config: &Config, xml: &EncodingXml, key: &str) -> Trouble {
    let value = xml.list(key).filter(|list| !list.is_empty()).map(|list| list.join(", "));
    let value = value.or_else(|| xml.get(key).map(str::to_owned)).unwrap_or_else(|| "not set".into());
    let source = match xml.line(key) {
        Some(line) => Source::line(&config.path, line),
        None => Source::file(&config.path),
    };
    trouble.seen(source, format!("{key}: {value}"))
}

fn fix() -> Fix {
    Fix::planned("fit Jellyfin's settings to the card", "sudo thruway app apply")
        .costs("a restart of Jellyfin: films that play stop for some seconds")
}

fn is_on(xml: &EncodingXml, key: &str, default: bool) -> bool {
    xml.get(key).map_or(default, |value| value.eq_ignore_ascii_case("true"))
}

fn uses_nvenc(xml: &EncodingXml) -> bool {
    xml.get("HardwareAccelerationType").is_some_and(|value| value.eq_ignore_ascii_case("nvenc"))
}

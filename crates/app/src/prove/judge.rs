//! From what was seen to a verdict.

use model::{Evidence, Seen, Source};

use super::{Asked, Half, Look, Place, Proof, Verdict, Watched, asked};
use crate::observe::Says;

/// Less CPU time than this, in cores, and the process waits: Jellyfin holds an ffmpeg that is far ahead of the player.
const IDLE: f64 = 0.02;

/// What follows for a process.
pub fn judge(seen: &Watched) -> Proof {
    let wish = seen.words.get().and_then(|words| asked(words));
    let (decode, encode) = match &wish {
        Some(wish) => (decode(seen, wish), encode(seen, wish)),
        None => halves_of_any(seen),
    };
    let computes = wish.is_none() && seen.looks.iter().any(|look| at_work(&look.sm) || look.there);
    let verdict = match (&decode, &encode) {
        (Half::Card(_), Half::Card(_)) => Verdict::Full,
        (Half::Card(_), _) => Verdict::DecodeOnly,
        (_, Half::Card(_)) => Verdict::EncodeOnly,
        _ if computes => Verdict::Computes,
        (Half::Unknown(_), _) | (_, Half::Unknown(_)) => Verdict::Unknown,
        _ => Verdict::None,
    };
    let no_encoder = seen.card.as_ref().is_some_and(|card| card.encodes == Seen::Is(false));
    let pass = match verdict {
        Verdict::Full | Verdict::Computes => true,
        Verdict::DecodeOnly => no_encoder || matches!(encode, Half::None(_)),
        Verdict::EncodeOnly => matches!(decode, Half::None(_)),
        Verdict::None | Verdict::Unknown => false,
    };
    Proof {
        pid: seen.pid,
        verdict,
        pass,
        says: sentence(seen, verdict, pass, no_encoder, &decode, &encode),
        fixes: if pass { Vec::new() } else { fixes(seen, verdict, &decode, &encode, no_encoder) },
        evidence: evidence(seen),
        decode,
        encode,
    }
}

fn at_work(share: &Seen<u32>) -> bool {
    share.get().is_some_and(|percent| *percent > 0)
}

/// The most that a field was in any look.
fn most(looks: &[Look], field: impl Fn(&Look) -> &Seen<u32>) -> Option<u32> {
    looks.iter().filter_map(|look| field(look).get().copied()).max()
}

/// The whole card's engine stood still in every one of several looks.
fn still(looks: &[Look], field: impl Fn(&Look) -> &Seen<u32>) -> bool {
    looks.len() > 1 && looks.iter().all(|look| field(look).get() == Some(&0))
}

fn waits(seen: &Watched) -> bool {
    seen.cores.get().is_some_and(|cores| *cores < IDLE)
}

const WAITS: &str =
    "it takes no CPU time either: it waits (Jellyfin holds a transcode that is far ahead), or has ended";

fn decode(seen: &Watched, wish: &Asked) -> Half {
    if let Some(percent) = most(&seen.looks, |look| &look.decoder).filter(|percent| *percent > 0) {
        return Half::Card(format!("the card measured up to {percent} % of its decoder for this process"));
    }
    let log = seen.log.as_ref().map(|(_, told)| told);
    if log.is_some_and(|told| told.trouble.as_ref().is_some_and(|(says, _)| *says == Says::SoftwareFallback)) {
        return Half::Cpu("ffmpeg fell back to software decoding and went on, without an error to anybody".into());
    }
    match (log.and_then(super::Told::decodes), wish.decode) {
        (Some(Place::Nobody), _) | (_, Place::Nobody) => return Half::None("the video is copied".into()),
        (None, Place::Cpu) => return Half::Cpu("the card was not asked to decode: no -hwaccel cuda".into()),
        _ => {}
    }
    if still(&seen.looks, |look| &look.card_decoder) {
        if waits(seen) {
            return Half::Unknown(WAITS.into());
        }
        return Half::Cpu("the card's decoder stood still all the while, though ffmpeg was asked to use it".into());
    }
    match seen.libraries.get() {
        Some(loaded) if !loaded.cuvid => {
            Half::Cpu("libnvcuvid is not loaded, without which no ffmpeg decodes on the card".into())
        }
        Some(_) if most(&seen.looks, |look| &look.card_decoder).is_some_and(|percent| percent > 0) => {
            Half::Card("the card's decoder works, and this process has libnvcuvid loaded".into())
        }
        _ => Half::Unknown("the card does not tell who uses its decoder".into()),
    }
}

fn encode(seen: &Watched, wish: &Asked) -> Half {
    if let Some(session) = seen.looks.iter().rev().find_map(|look| look.session.as_ref()) {
        let (width, height, fps) = (session.width, session.height, session.fps);
        return Half::Card(format!(
            "an encoding session of this process: {} {width}×{height}, {fps} frames a second",
            session.codec
        ));
    }
    if let Some(percent) = most(&seen.looks, |look| &look.encoder).filter(|percent| *percent > 0) {
        return Half::Card(format!("the card measured up to {percent} % of its encoder for this process"));
    }
    let did = seen.log.as_ref().and_then(|(_, told)| told.encodes());
    match did.unwrap_or(wish.encode) {
        Place::Nobody => Half::None("the video is copied, or there is none".into()),
        Place::Cpu => Half::Cpu(match &wish.encoder {
            Some(encoder) => format!("{encoder} is an encoder of the CPU"),
            None => "no encoder of the card was asked for".into(),
        }),
        Place::Card if waits(seen) => Half::Unknown(WAITS.into()),
        // NVENC does not fall back: ffmpeg ends with an error where it cannot be had
        Place::Card if seen.libraries.get().is_some_and(|loaded| loaded.encode) => {
            Half::Card("ffmpeg runs with an encoder of the card, and has libnvidia-encode loaded".into())
        }
        Place::Card => Half::Unknown("an encoder of the card was asked for, and no session of it was seen".into()),
    }
}

/// A program that is no ffmpeg: by what was measured alone.
fn halves_of_any(seen: &Watched) -> (Half, Half) {
    let half = |percent: Option<u32>, engine: &str| match percent {
        Some(percent) if percent > 0 => Half::Card(format!("the card measured up to {percent} % of its {engine}")),
        _ => Half::None(format!("no use of the {engine} was measured")),
    };
    let session = seen.looks.iter().any(|look| look.session.is_some());
    let encode = if session {
        Half::Card("an encoding session of this process".into())
    } else {
        half(most(&seen.looks, |look| &look.encoder), "encoder")
    };
    (half(most(&seen.looks, |look| &look.decoder), "decoder"), encode)
}

fn sentence(seen: &Watched, verdict: Verdict, pass: bool, no_encoder: bool, decode: &Half, encode: &Half) -> String {
    let card = seen.card.as_ref().map_or("card", |card| card.name.as_str());
    match verdict {
        Verdict::Full => format!("process {} decodes and encodes with the {card}", seen.pid),
        Verdict::DecodeOnly if no_encoder => {
            format!("process {} decodes with the {card}; the CPU encodes, since this card has no encoder", seen.pid)
        }
        Verdict::DecodeOnly if pass => format!("process {} decodes with the {card}, and nothing is encoded", seen.pid),
        Verdict::DecodeOnly => {
            format!("process {} decodes with the {card}, and the CPU encodes although the card could", seen.pid)
        }
        Verdict::EncodeOnly if pass => format!("process {} encodes with the {card}, and nothing is decoded", seen.pid),
        Verdict::EncodeOnly => match decode {
            Half::Unknown(why) => format!("process {} encodes with the {card}; whether it decodes: {why}", seen.pid),
            _ => format!("process {} encodes with the {card}, and the CPU decodes", seen.pid),
        },
        Verdict::Computes => format!("process {} computes with the {card}", seen.pid),
        Verdict::None if matches!((decode, encode), (Half::None(_), Half::None(_))) => {
            format!("process {} copies the video: there is nothing to transcode, for the card or the CPU", seen.pid)
        }
        Verdict::None => format!("process {} does not use the {card}: the CPU does all the work", seen.pid),
        Verdict::Unknown => {
            let why = [decode, encode].into_iter().find_map(|half| match half {
                Half::Unknown(why) => Some(why.as_str()),
                _ => None,
            });
            let why = seen.unasked.as_deref().or(why).unwrap_or("nothing was seen");
            format!("whether process {} uses the {card} cannot be told: {why}", seen.pid)
        }
    }
}

fn fixes(seen: &Watched, verdict: Verdict, decode: &Half, encode: &Half, no_encoder: bool) -> Vec<String> {
    let mut fixes = Vec::new();
    let mut say = |text: &str| {
        if !fixes.iter().any(|fix| fix == text) {
            fixes.push(text.to_owned());
        }
    };
    let trouble = seen.log.as_ref().and_then(|(_, told)| told.trouble.as_ref()).map(|(says, _)| *says);
    match trouble {
        Some(Says::LibraryMissing) => {
            say("thruway doctor --layer container   # NVIDIA_DRIVER_CAPABILITIES lacks video")
        }
        Some(Says::NoDevice | Says::SoftwareFallback) => say("thruway doctor   # CUDA or NVDEC failed in there"),
        Some(Says::DriverTooOld) => say("thruway doctor --layer guest   # ffmpeg wants a newer driver"),
        Some(Says::OutOfSessions) => say("thruway top --once   # who holds the encoding sessions and the memory"),
        Some(Says::NoEncoder) => say("sudo thruway app apply   # hardware encoding off on a card that has none"),
        None => {}
    }
    let of_settings = matches!(decode, Half::Cpu(_)) || (matches!(encode, Half::Cpu(_)) && !no_encoder);
    if of_settings && trouble.is_none() {
        say("sudo thruway app plan   # Jellyfin's settings, made of what the card can do");
    }
    if verdict == Verdict::Unknown || matches!((decode, encode), (Half::None(_), Half::None(_))) {
        match &seen.unasked {
            Some(_) => say("thruway doctor --layer guest"),
            None => say("play something that must be transcoded (another resolution), and run this again"),
        }
    }
    fixes
}

fn evidence(seen: &Watched) -> Vec<Evidence> {
    let mut all = Vec::new();
    let mut say = |source: Source, value: String| all.push(Evidence { source, value });
    let proc = |name: &str| Source::file(format!("/proc/{}/{name}", seen.pid));
    let nvml = |call: &str| Source::Answer(format!("NVML, {call}"));
    if let Some(session) = seen.looks.iter().rev().find_map(|look| look.session.as_ref()) {
        let text = format!(
            "session {} {} {}×{} at {} frames a second, {} µs",
            session.id, session.codec, session.width, session.height, session.fps, session.latency
        );
        say(nvml("encoder sessions"), text);
    }
    let looks = seen.looks.len();
    let there = seen.looks.iter().filter(|look| look.there).count();
    if looks > 0 {
        let shares: [Option<String>; 3] = [
            most(&seen.looks, |look| &look.sm).map(|percent| format!("SM {percent} %")),
            most(&seen.looks, |look| &look.decoder).map(|percent| format!("decoder {percent} %")),
            most(&seen.looks, |look| &look.encoder).map(|percent| format!("encoder {percent} %")),
        ];
        let shares: Vec<String> = shares.into_iter().flatten().collect();
        let shares = if shares.is_empty() { "no share was measured".to_owned() } else { shares.join(", ") };
        say(nvml("the process"), format!("on the card in {there} of {looks} looks; at most {shares}"));
        let card = |name: &str, percent: Option<u32>| percent.map(|percent| format!("{name} {percent} %"));
        let whole: Vec<String> = [
            card("decoder", most(&seen.looks, |look| &look.card_decoder)),
            card("encoder", most(&seen.looks, |look| &look.card_encoder)),
        ]
        .into_iter()
        .flatten()
        .collect();
        if !whole.is_empty() {
            say(nvml("the whole card"), format!("at most {}", whole.join(", ")));
        }
        if let Some(bytes) = seen.looks.iter().filter_map(|look| look.memory.get()).max() {
            say(nvml("memory of the process"), format!("{} MiB", bytes >> 20));
        }
    }
    if let Some(why) = &seen.unasked {
        say(Source::Answer("NVML".into()), why.clone());
    }
    if let Some((path, told)) = &seen.log {
        if let Some((_, line)) = &told.trouble {
            say(Source::line(path, line.number), line.text.clone());
        }
        if let Some(line) = &told.mapping {
            say(Source::line(path, line.number), line.text.clone());
        }
        if let Some(frames) = told.frames {
            let speed = told.speed.map(|speed| format!(", speed {}.{:02}x", speed / 1000, speed % 1000 / 10));
            say(Source::file(path), format!("{frames} frames{}", speed.unwrap_or_default()));
        }
    }
    match &seen.libraries {
        Seen::Is(loaded) => say(proc("maps"), loaded.to_string()),
        Seen::Unreadable(why) => say(proc("maps"), format!("could not be read: {why}")),
        Seen::Absent => {}
    }
    match &seen.nodes {
        Seen::Is(nodes) if nodes.is_empty() => say(proc("fd"), "no node of a GPU is open".into()),
        Seen::Is(nodes) => say(proc("fd"), nodes.join(", ")),
        Seen::Unreadable(why) => say(proc("fd"), format!("could not be read: {why}")),
        Seen::Absent => {}
    }
    if let Some(words) = seen.words.get() {
        say(proc("cmdline"), words.join(" ").chars().take(240).collect());
    }
    if let Some(cores) = seen.cores.get() {
        say(proc("stat"), format!("{cores:.2} cores of CPU time"));
    }
    if let Some(card) = &seen.card {
        let text = match &card.encodes {
            Seen::Is(true) => "has an encoder",
            Seen::Is(false) => "has no encoder",
            _ => "whether it has an encoder is not known",
        };
        say(Source::Rule(card.source.clone()), format!("{} {text}", card.name));
    }
    all
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

//! `thruway codecs`: what each card's video engines do, by the card's own word.

use gpu::codecs::Codecs;
use gpu::engines::{self, Engines};
use machine::Kind;
use machine::codecs::EncodeCap;
use model::{Bdf, Seen};
use serde_json::json;

use crate::cli::Global;
use crate::paint::{Page, Tone, paint};
use crate::target::Target;
use crate::{BLIND, DONE, FOUND, say};

const SCHEMA: u32 = 1;
const COLUMN: usize = 10;

pub fn codecs(global: &Global, only: Option<Bdf>) -> anyhow::Result<u8> {
    let target = Target::open(global)?;
    let machine = target.machine();
    let inventory = gpu::observe(machine);
    let (all, api) = engines::observe(machine, &inventory);
    let chosen: Vec<&Engines> = all.iter().filter(|one| only.is_none_or(|bdf| one.bdf.same_slot(&bdf))).collect();
    let status = status(&chosen, inventory.looked.unreadable().is_some());
    let simulated = machine.kind() == Kind::Simulated;
    if global.json {
        let report = json!({
            "schema": SCHEMA,
            "thruway": env!("CARGO_PKG_VERSION"),
            "machine": target.name(global),
            "simulated": simulated,
            "nvenc_api": api,
            "cards": chosen,
        });
        return say(&(serde_json::to_string_pretty(&report)? + "\n")).map(|()| status);
    }
    let mut page = Page::new();
    if simulated {
        page.line(format!("{} {}", paint(Tone::Strong, &target.name(global)), paint(Tone::Warn, "(simulated)")));
    }
    // Cards that say the same are told once: a server has eight of a kind.
    let mut groups: Vec<Vec<&Engines>> = Vec::new();
    for one in &chosen {
        match groups.iter_mut().find(|group| group.first().is_some_and(|first| same(first, one))) {
            Some(group) => group.push(one),
            None => groups.push(vec![one]),
        }
    }
    for group in &groups {
        page.gap();
        card(&mut page, group);
    }
    if chosen.is_empty() {
        page.line(match (&inventory.looked, only) {
            (Seen::Unreadable(reason), _) => format!("The PCI bus could not be looked at: {reason}"),
            (_, Some(bdf)) => format!("No NVIDIA card is at {bdf}; `thruway gpus` lists what is there."),
            (_, None) => "No NVIDIA card is here.".to_owned(),
        });
    }
    say(&page.text())?;
    Ok(status)
}

fn status(cards: &[&Engines], blind: bool) -> u8 {
    let unread = |one: &&Engines| match &one.asked {
        Seen::Is(asked) => asked.decodes.unreadable().is_some() || asked.encodes.unreadable().is_some(),
        Seen::Absent => false,
        Seen::Unreadable(_) => true,
    };
    if blind || cards.iter().any(unread) {
        BLIND
    } else if cards.is_empty() || cards.iter().all(|one| !one.asked.is_there() && one.table.is_none()) {
        FOUND
    } else {
        DONE
    }
}

/// All but the address.
fn same(one: &Engines, other: &Engines) -> bool {
    *one == Engines { bdf: one.bdf, ..other.clone() }
}

fn card(page: &mut Page, group: &[&Engines]) {
    let Some(one) = group.first() else { return };
    for each in group {
        page.line(format!("{}  {}", paint(Tone::Strong, &each.bdf.to_string()), paint(Tone::Strong, &each.name)));
    }
    let asked = match &one.asked {
        Seen::Is(asked) => asked,
        other => {
            let why = match other {
                Seen::Unreadable(reason) => format!("the card could not be asked: {reason}"),
                _ => "no driver shows the card here, so it was not asked".to_owned(),
            };
            page.hang(4, "asked", COLUMN, Tone::Warn, &why);
            match &one.table {
                Some(table) => by_table(page, table),
                None => page.hang(4, "table", COLUMN, Tone::Warn, "its chip is in no table: unknown"),
            }
            return;
        }
    };
    page.hang(4, "asked", COLUMN, Tone::Good, "of the card itself");
    match &asked.decodes {
        Seen::Is(caps) if caps.is_empty() => page.hang(4, "decodes", COLUMN, Tone::Plain, "nothing"),
        Seen::Is(caps) => {
            for (at, row) in engines::rows(caps).iter().enumerate() {
                let formats: Vec<String> = row.formats.iter().map(|(chroma, depths)| format(chroma, depths)).collect();
                let engines = if row.engines > 0 {
                    format!(", {} engine{}", row.engines, if row.engines == 1 { "" } else { "s" })
                } else {
                    String::new()
                };
                let text =
                    format!("{:<7} {} up to {}×{}{engines}", name(row.codec), formats.join(", "), row.max.0, row.max.1);
                page.whole(4, if at == 0 { "decodes" } else { "" }, COLUMN, Tone::Plain, &text);
            }
        }
        Seen::Absent => {
            let why =
                "unknown: libnvcuvid.so.1 is not here (package libnvcuvid1, or the capability `video` of a container)";
            page.hang(4, "decodes", COLUMN, Tone::Warn, why);
        }
        Seen::Unreadable(reason) => page.hang(4, "decodes", COLUMN, Tone::Warn, &format!("not said: {reason}")),
    }
    match &asked.encodes {
        Seen::Is(caps) if caps.is_empty() => page.hang(4, "encodes", COLUMN, Tone::Plain, "nothing"),
        Seen::Is(caps) => {
            for (at, cap) in caps.iter().enumerate() {
                page.whole(4, if at == 0 { "encodes" } else { "" }, COLUMN, Tone::Plain, &encoder(cap));
            }
        }
        Seen::Absent => page.hang(4, "encodes", COLUMN, Tone::Plain, "nothing: the card has no NVENC"),
        Seen::Unreadable(reason) => page.hang(4, "encodes", COLUMN, Tone::Warn, &format!("not said: {reason}")),
    }
    if asked.encodes.is_there() {
        let now = one.sessions.get().map(|now| format!("{now} in use")).unwrap_or_default();
        let limit = one.sessions_limit.map(|limit| {
            format!("at most {} at once on this machine (driver branch {})", limit.sessions, limit.branch)
        });
        let parts: Vec<String> = [Some(now).filter(|now| !now.is_empty()), limit].into_iter().flatten().collect();
        if !parts.is_empty() {
            page.hang(4, "sessions", COLUMN, Tone::Plain, &parts.join(", "));
        }
    }
}

/// "4:2:0 8/10/12-bit"
fn format(chroma: &str, depths: &[u8]) -> String {
    let chroma = match chroma {
        "400" => "mono".to_owned(),
        other => other.chars().map(String::from).collect::<Vec<_>>().join(":"),
    };
    let depths: Vec<String> = depths.iter().map(u8::to_string).collect();
    format!("{chroma} {}-bit", depths.join("/"))
}

fn name(codec: &str) -> &str {
    match codec {
        "mpeg1" => "MPEG-1",
        "mpeg2" => "MPEG-2",
        "mpeg4" => "MPEG-4",
        "vc1" => "VC-1",
        "h264" => "H.264",
        "jpeg" => "JPEG",
        "hevc" => "HEVC",
        "vp8" => "VP8",
        "vp9" => "VP9",
        "av1" => "AV1",
        other => other,
    }
}

fn encoder(cap: &EncodeCap) -> String {
    let size = match (cap.max_width, cap.max_height) {
        (Some(width), Some(height)) => format!(" up to {width}×{height}"),
        _ => String::new(),
    };
    let has = |what: Option<bool>, name: &'static str| (what == Some(true)).then_some(name);
    let more = [
        has(cap.depth_10, "10-bit"),
        has(cap.yuv_422, "4:2:2"),
        has(cap.yuv_444, "4:4:4"),
        has(cap.lossless, "lossless"),
    ];
    let mut more: Vec<String> = more.into_iter().flatten().map(str::to_owned).collect();
    if let Some(frames) = cap.b_frames {
        more.push(if frames == 0 { "no B-frames".to_owned() } else { format!("{frames} B-frames") });
    }
    if let Some(engines) = cap.engines {
        more.push(format!("{engines} NVENC"));
    }
    let more = if more.is_empty() { String::new() } else { format!(", {}", more.join(", ")) };
    format!("{:<7} 4:2:0 8-bit{size}{more}", name(&cap.codec))
}

fn by_table(page: &mut Page, table: &Codecs) {
    page.hang(4, "table", COLUMN, Tone::Warn, &format!("{} by chip; {}", table.chip, table.source));
    for (at, row) in table.decodes.iter().enumerate() {
        let mut formats = vec![format("420", &row.depths_420)];
        if !row.depths_444.is_empty() {
            formats.push(format("444", &row.depths_444));
        }
        let text = format!("{:<7} {}", row.codec.name(), formats.join(", "));
        page.whole(4, if at == 0 { "decodes" } else { "" }, COLUMN, Tone::Plain, &text);
    }
    let encodes: Vec<&str> = table.encodes.iter().map(|codec| codec.name()).collect();
    let text = if table.nvenc == 0 {
        "nothing: the chip has no NVENC".to_owned()
    } else {
        format!("{} ({} NVENC)", encodes.join(", "), table.nvenc)
    };
    page.hang(4, "encodes", COLUMN, Tone::Plain, &text);
}

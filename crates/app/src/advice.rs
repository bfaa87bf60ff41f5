//! What other apps need of a card, as data, judged by what the card can do. Advice only: nothing of theirs is read or changed.

use gpu::codecs::{Codec, Codecs};
use serde::Serialize;

/// What a row asks of the card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asks {
    /// Nothing: it holds for every card.
    Nothing,
    Decodes(Codec, u8),
    Encodes(Codec),
}

struct Row {
    asks: Asks,
    /// What to set where the card can.
    yes: &'static str,
    /// What to do where it cannot; empty: then the row says nothing.
    no: &'static str,
}

/// An app and what it takes to let it use the card.
struct App {
    name: &'static str,
    title: &'static str,
    rows: &'static [Row],
    source: &'static str,
}

/// One line of advice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// None: it holds for every card.
    pub can: Option<bool>,
    pub says: &'static str,
}

/// The advice for one app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Advice {
    pub app: &'static str,
    pub title: &'static str,
    pub lines: Vec<Line>,
    pub source: &'static str,
}

const fn row(asks: Asks, yes: &'static str, no: &'static str) -> Row {
    Row { asks, yes, no }
}

const VIDEO: Row = row(
    Asks::Nothing,
    "the container needs the card and NVIDIA_DRIVER_CAPABILITIES=compute,video,utility (or all); thruway container plan gives it",
    "",
);

static APPS: &[App] = &[
    App {
        name: "plex",
        title: "Plex Media Server",
        rows: &[
            VIDEO,
            row(
                Asks::Nothing,
                "hardware transcoding needs a Plex Pass: Settings, Transcoder, Use hardware acceleration when available",
                "",
            ),
            row(
                Asks::Encodes(Codec::H264),
                "Use hardware-accelerated video encoding: on",
                "Use hardware-accelerated video encoding: off; the card decodes and the CPU encodes",
            ),
            row(
                Asks::Encodes(Codec::Hevc),
                "HEVC video encoding may be on",
                "HEVC video encoding: off, the card has no encoder for it",
            ),
            row(
                Asks::Decodes(Codec::Hevc, 10),
                "HDR tone mapping may be on: it runs on the card",
                "HDR tone mapping: off, the card does not decode HEVC with 10 bits",
            ),
            row(
                Asks::Nothing,
                "the transcoder's temporary directory belongs on a disk with room for whole films, or on memory that is large enough",
                "",
            ),
        ],
        source: "Plex support: Using Hardware-Accelerated Streaming; plexinc/pms-docker",
    },
    App {
        name: "emby",
        title: "Emby Server",
        rows: &[
            VIDEO,
            row(
                Asks::Nothing,
                "hardware transcoding needs Emby Premiere: Settings, Transcoding, Enable hardware acceleration: Yes or Advanced",
                "",
            ),
            row(
                Asks::Encodes(Codec::H264),
                "tick the NVENC encoders that Emby lists",
                "tick the NVDEC decoders alone: the card has no encoder, and Emby falls back to software for that half",
            ),
            row(Asks::Decodes(Codec::Hevc, 10), "tone mapping by CUDA may be on", "tone mapping: off, or by the CPU"),
        ],
        source: "Emby documentation: Hardware Acceleration; emby/embyserver",
    },
    App {
        name: "frigate",
        title: "Frigate",
        rows: &[
            VIDEO,
            row(
                Asks::Nothing,
                "use the image with -tensorrt, and give it shared memory: shm_size by the number of cameras",
                "",
            ),
            row(
                Asks::Decodes(Codec::H264, 8),
                "cameras with H.264: ffmpeg: hwaccel_args: preset-nvidia",
                "no hwaccel_args: the card decodes no H.264",
            ),
            row(
                Asks::Decodes(Codec::Hevc, 8),
                "cameras with H.265 can use the same preset",
                "set the cameras to H.264: the card decodes no H.265",
            ),
            row(
                Asks::Encodes(Codec::H264),
                "the restream and birdseye may encode with the card",
                "the restream and birdseye encode on the CPU: the card has no encoder",
            ),
            row(Asks::Nothing, "detection runs on CUDA: detectors: onnx with the -tensorrt image", ""),
        ],
        source: "Frigate documentation: hardware acceleration, detectors",
    },
    App {
        name: "immich",
        title: "Immich",
        rows: &[
            VIDEO,
            row(
                Asks::Encodes(Codec::H264),
                "immich-server: extends hwaccel.transcoding.yml, service nvenc; Video Transcoding: NVENC",
                "no NVENC: leave Video Transcoding at Disabled, the card has no encoder",
            ),
            row(Asks::Encodes(Codec::Hevc), "HEVC may be the target codec", ""),
            row(Asks::Encodes(Codec::Av1), "AV1 may be the target codec", "AV1 is no target for this card"),
            row(
                Asks::Nothing,
                "immich-machine-learning: the image with -cuda, service cuda of hwaccel.ml.yml; compute capability 5.2 and driver 545 at least",
                "",
            ),
        ],
        source: "Immich documentation: hardware transcoding, hardware-accelerated machine learning",
    },
    App {
        name: "ollama",
        title: "Ollama",
        rows: &[
            row(
                Asks::Nothing,
                "it computes and uses no video engine: NVIDIA_DRIVER_CAPABILITIES=compute,utility is enough",
                "",
            ),
            row(
                Asks::Nothing,
                "compute capability 5.0 and driver 531 at least; a model that does not fit the card's memory runs partly on the CPU, and ollama ps says so",
                "",
            ),
            row(Asks::Nothing, "after a suspend it may lose the card until nvidia_uvm is loaded again", ""),
        ],
        source: "Ollama documentation: GPU, Docker, troubleshooting",
    },
];

/// The apps that there is advice for.
pub fn apps() -> impl Iterator<Item = &'static str> {
    APPS.iter().map(|app| app.name)
}

/// The advice for `only`, or for all; none for an app that is not known.
pub fn advise(codecs: &Codecs, only: Option<&str>) -> Vec<Advice> {
    let meant = APPS.iter().filter(|app| only.is_none_or(|only| only.eq_ignore_ascii_case(app.name)));
    let line = |row: &Row| {
        let can = match row.asks {
            Asks::Nothing => None,
            Asks::Decodes(codec, depth) => Some(codecs.decodes_420(codec, depth)),
            Asks::Encodes(codec) => Some(codecs.encodes(codec)),
        };
        let says = if can == Some(false) { row.no } else { row.yes };
        (!says.is_empty()).then_some(Line { can, says })
    };
    meant
        .map(|app| Advice {
            app: app.name,
            title: app.title,
            lines: app.rows.iter().filter_map(line).collect(),
            source: app.source,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use gpu::codecs::by_name;

    use super::*;

    #[test]
    fn advice_follows_the_card() {
        let small = by_name("GP108 [GeForce GT 1030]").expect("GP108");
        let large = by_name("AD102 [GeForce RTX 4090]").expect("AD102");
        let says = |codecs: &Codecs, app: &str| {
            let lines = advise(codecs, Some(app)).into_iter().flat_map(|advice| advice.lines);
            lines.map(|line| line.says).collect::<Vec<_>>().join("\n")
        };
        assert!(says(&small, "plex").contains("encoding: off"), "{}", says(&small, "plex"));
        assert!(says(&large, "Plex").contains("video encoding: on"));
        assert!(says(&small, "immich").contains("leave Video Transcoding at Disabled"));
        assert!(says(&large, "immich").contains("AV1 may be"));
        assert_eq!(advise(&small, None).len(), apps().count());
        assert!(advise(&small, Some("vlc")).is_empty());
    }
}

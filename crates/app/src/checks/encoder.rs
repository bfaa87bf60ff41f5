//! The switch of hardware acceleration, and the encoder that the card may not have.

use gpu::codecs::Codec;
use model::{About, Check, CheckId, Fix, Layer, Reason, Seen, Source, Trouble, Verdict};

use super::{each, fix, is_on, shown, unknown, uses_nvenc};
use crate::Facts;

pub const SETTINGS: Check<Facts> = Check {
    about: About {
        id: CheckId("app/settings-readable"),
        layer: Layer::App,
        title: "Jellyfin's encoding.xml is sound XML",
        why: "Jellyfin reads encoding.xml at its start. A file that is no sound XML (an edit by hand, a full disk) makes it \
              fall back to its defaults without a word on its settings page: hardware acceleration is then off.",
        source: "Jellyfin: BaseConfigurationManager, loading of named configurations",
    },
    run: |facts| {
        if facts.configs.is_empty() {
            return Verdict::NotApplicable;
        }
        for config in &facts.configs {
            match &config.xml {
                Seen::Unreadable(Reason::Malformed(what)) => {
                    let fix = Fix::by_hand(
                        "mend the line, or take the file away: Jellyfin writes a new one with its defaults",
                        &[&format!("sudo mv {0} {0}.broken", config.path)],
                        "move the file back",
                    );
                    let trouble =
                        Trouble::new(format!("{} is no sound XML, so Jellyfin runs with its defaults", config.path));
                    return Verdict::Fail(trouble.seen(Source::file(&config.path), what.clone()).fix(fix));
                }
                Seen::Unreadable(reason) => return unknown(reason, config.path.clone()),
                _ => {}
            }
        }
        Verdict::Pass
    },
};

pub const HARDWARE_OFF: Check<Facts> = Check {
    about: About {
        id: CheckId("app/hardware-off"),
        layer: Layer::App,
        title: "Jellyfin's hardware acceleration is set to NVIDIA",
        why: "Jellyfin's default is no hardware acceleration, and it never looks for a card. Films then play, and each \
              transcode takes whole CPU cores while the card idles. \"nvenc\" is its name for NVIDIA as a whole: the \
              decoder is used too, on a card that encodes nothing.",
        source: "Jellyfin: EncodingOptions.HardwareAccelerationType",
    },
    run: |facts| {
        each(facts, |facts, config, xml, codecs| {
            if uses_nvenc(xml) || codecs.decodes.is_empty() {
                return None;
            }
            let says =
                format!("Jellyfin does not use the {}: hardware acceleration is not set to NVIDIA", facts.card_names());
            Some(Verdict::Fail(shown(Trouble::new(says), config, xml, "HardwareAccelerationType").fix(fix())))
        })
    },
};

pub const WITHOUT_NVENC: Check<Facts> = Check {
    about: About {
        id: CheckId("app/encodes-without-nvenc"),
        layer: Layer::App,
        title: "Jellyfin encodes with the card only what the card encodes",
        why: "GeForce GT 1030, A100 and H100 have no NVENC engine at all; only Ada and later encode AV1. Jellyfin asks \
              ffmpeg what it was compiled with and not the card, so h264_nvenc counts as supported, and each transcode \
              ends with \"OpenEncodeSessionEx failed\" or \"No capable devices found\" and \"fatal player error\" in the \
              client. With hardware encoding off the CPU encodes and the card still decodes.",
        source: "NVIDIA's support matrix; Jellyfin: EncodingHelper",
    },
    run: |facts| {
        each(facts, |facts, config, xml, codecs| {
            if !uses_nvenc(xml) || !is_on(xml, "EnableHardwareEncoding", true) {
                return None;
            }
            let name = facts.card_names();
            let static_says = |trouble: Trouble| {
                let value = format!("{}: {} NVENC engines", codecs.chip, codecs.nvenc);
                trouble.seen(Source::Rule(codecs.source.clone()), value).fix(fix())
            };
            if !codecs.encodes(Codec::H264) {
                let says =
                    format!("Jellyfin is set to encode with the {name}, which has no encoder: every transcode fails");
                let trouble = shown(Trouble::new(says), config, xml, "EnableHardwareEncoding");
                return Some(Verdict::Fail(static_says(trouble)));
            }
            for (key, codec) in [("AllowHevcEncoding", Codec::Hevc), ("AllowAv1Encoding", Codec::Av1)] {
                if is_on(xml, key, false) && !codecs.encodes(codec) {
                    let says = format!("Jellyfin may encode {} with the {name}, which cannot", codec.name());
                    return Some(Verdict::Fail(static_says(shown(Trouble::new(says), config, xml, key))));
                }
            }
            None
        })
    },
};

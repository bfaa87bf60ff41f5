//! The mapping from a card to Jellyfin's settings, by chip, and on the settings files of Jellyfin's releases.
#![allow(clippy::disallowed_methods, reason = "reads the golden files")]

use app::settings::{Options as _, fitting, threads_hurt};
use formats::encodingxml::EncodingXml;
use gpu::codecs::by_name;

/// A card of each class, by its name in pci.ids.
const CARDS: [&str; 11] = [
    "GM204 [GeForce GTX 970]",
    "GP108 [GeForce GT 1030]",
    "GP106 [GeForce GTX 1060 6GB]",
    "TU116 [GeForce GTX 1660]",
    "TU117M [GeForce MX450]",
    "GA100 [A100 SXM4 40GB]",
    "GA106 [GeForce RTX 3060]",
    "GH100 [H100 SXM5 80GB]",
    "AD102 [GeForce RTX 4090]",
    "GB202 [GeForce RTX 5090]",
    "GK208B [GeForce GT 710]",
];

const RELEASES: [(&str, &[u8]); 5] = [
    ("10.8", include_bytes!("encoding/10.8.xml")),
    ("10.9", include_bytes!("encoding/10.9.xml")),
    ("10.10", include_bytes!("encoding/10.10.xml")),
    ("10.11", include_bytes!("encoding/10.11.xml")),
    ("12.0", include_bytes!("encoding/12.0.xml")),
];

#[test]
fn every_class_of_cards_has_its_settings() {
    let mut text = String::new();
    for name in CARDS {
        let wanted = fitting(&by_name(name).expect("in the table"));
        let choice = |choice: Option<bool>| choice.map_or("as it is", |on| if on { "on" } else { "off" });
        text.push_str(&format!(
            "{name}\n  {}, encodes {}, HEVC {}, AV1 {}\n  decodes {}\n  10 bits: HEVC {}, VP9 {}; RExt: 10 {}, 12 {}; tone mapping {}\n",
            wanted.acceleration,
            wanted.hardware_encoding,
            choice(wanted.allow_hevc),
            choice(wanted.allow_av1),
            wanted.decoders.join(" "),
            wanted.hevc_10,
            wanted.vp9_10,
            wanted.hevc_rext_10,
            wanted.hevc_rext_12,
            wanted.tonemapping,
        ));
    }
    assert_eq!(text, include_str!("golden/settings.txt"), "{text}");
}

/// Every line of the file that is not about a setting that changed is as it was, at its place.
#[test]
fn the_file_of_every_release_is_fitted_once_and_keeps_all_else() {
    for (release, bytes) in RELEASES {
        for name in CARDS {
            let wanted = fitting(&by_name(name).expect("in the table"));
            let old = EncodingXml::parse(bytes).expect("reads");
            assert_eq!(old.to_bytes(), bytes, "{release}");
            let mut new = old.clone();
            let said = wanted.write(&mut new);
            assert!(!said.is_empty(), "{release}, {name}");
            let keys: Vec<&str> = said.iter().filter_map(|line| line.split_once(':')).map(|(key, _)| key).collect();
            let kept = |text: &str| -> Vec<String> {
                let ours = |line: &&str| {
                    let key = |key: &&str| {
                        line.contains(&format!("<{key}>"))
                            || line.contains(&format!("</{key}>"))
                            || line.contains(&format!("<{key} />"))
                    };
                    !keys.iter().any(key) && !line.contains("<string>")
                };
                text.split('\n').filter(ours).map(str::to_owned).collect()
            };
            assert_eq!(kept(new.as_str()), kept(old.as_str()), "{release}, {name}");
            let again = EncodingXml::parse(&new.to_bytes()).expect("reads again");
            assert_eq!(
                wanted.write(&mut again.clone()),
                Vec::<String>::new(),
                "{release}, {name}: a second plan is empty"
            );
            // no release gets a key that it does not have
            let count = |xml: &EncodingXml| xml.as_str().matches("</").count() + xml.as_str().matches(" />").count();
            let lists = |xml: &EncodingXml| xml.as_str().matches("<string>").count();
            assert_eq!(count(&new) - lists(&new), count(&old) - lists(&old), "{release}, {name}");
        }
    }
}

#[test]
fn threads_are_left_alone_unless_they_hurt() {
    assert!(threads_hurt("1", false) && !threads_hurt("1", true), "one thread on the CPU is slower than the film");
    for fine in ["-1", "0", "2", "8", ""] {
        assert!(!threads_hurt(fine, false) && !threads_hurt(fine, true), "{fine}");
    }
    assert!(threads_hurt("-7", true) && threads_hurt("many", true));
    let (_, bytes) = RELEASES[0];
    let mut xml = EncodingXml::parse(bytes).expect("reads");
    fitting(&by_name("GP108").expect("the chip")).write(&mut xml);
    assert_eq!(xml.get("EncodingThreadCount"), Some("-1"));
    let mut xml = EncodingXml::parse(bytes).expect("reads");
    fitting(&by_name("AD102").expect("the chip")).write(&mut xml);
    assert_eq!(xml.get("EncodingThreadCount"), Some("1"), "the card encodes: its owner's choice");
}

#[test]
fn by_the_api_only_known_keys_are_set_and_types_kept() {
    let object = serde_json::json!({ "HardwareAccelerationType": "none", "EnableTonemapping": false, "H264Crf": 23,
        "HardwareDecodingCodecs": ["vc1", "h264"], "EncodingThreadCount": 1, "EncoderPreset": null });
    let mut options = object.as_object().cloned().expect("an object");
    let said = fitting(&by_name("GP108").expect("the chip")).write(&mut options);
    assert_eq!(options.len(), 6, "{options:?}");
    assert_eq!(options["EnableTonemapping"], serde_json::json!(true));
    assert_eq!(options["EncodingThreadCount"], serde_json::json!(-1));
    assert!(options.takes("H264Crf") && !options.takes("EnableHardwareEncoding"));
    assert_eq!(said.len(), 4, "{said:?}");
}

use machine::nvml::NvmlSession;
use model::{Reason, Seen};

use super::*;
use crate::prove::{CardCan, Half, Libraries, Verdict, Watched, told};

fn words(text: &str) -> Seen<Vec<String>> {
    Seen::Is(text.split(' ').map(str::to_owned).collect())
}

fn look(decoder: u32, encoder: u32) -> Look {
    Look {
        there: true,
        memory: Seen::Is(949 << 20),
        sm: Seen::Is(36),
        encoder: Seen::Is(encoder),
        decoder: Seen::Is(decoder),
        card_encoder: Seen::Is(encoder),
        card_decoder: Seen::Is(decoder),
        session: None,
    }
}

/// The seed's film: GT 1030, which has no encoder.
fn film() -> Watched {
    Watched {
        pid: 1719,
        words: words(
            "/usr/lib/jellyfin-ffmpeg/ffmpeg -init_hw_device cuda=cu:0 -hwaccel cuda -i film -codec:v:0 libx264 out",
        ),
        libraries: Seen::Is(Libraries { cuda: true, cuvid: true, encode: false }),
        nodes: Seen::Is(vec!["/dev/nvidia0".into()]),
        looks: vec![look(21, 0), look(19, 0)],
        unasked: None,
        cores: Seen::Is(3.1),
        log: None,
        card: Some(CardCan {
            name: "GeForce GT 1030".into(),
            encodes: Seen::Is(false),
            source: "asked of the card".into(),
        }),
    }
}

fn with_encoder(mut seen: Watched) -> Watched {
    seen.card = Some(CardCan { name: "GeForce GTX 1660".into(), encodes: Seen::Is(true), source: "asked".into() });
    seen
}

#[test]
fn decode_only_is_a_pass_where_the_card_has_no_encoder_and_only_there() {
    let proof = judge(&film());
    assert_eq!((proof.verdict, proof.pass), (Verdict::DecodeOnly, true), "{proof:?}");
    assert_eq!(
        proof.says,
        "process 1719 decodes with the GeForce GT 1030; the CPU encodes, since this card has no encoder"
    );
    assert!(proof.fixes.is_empty());
    let proof = judge(&with_encoder(film()));
    assert_eq!((proof.verdict, proof.pass), (Verdict::DecodeOnly, false));
    assert!(proof.fixes[0].contains("thruway app plan"), "{:?}", proof.fixes);
}

#[test]
fn a_session_and_a_share_of_the_decoder_are_full() {
    let mut seen = with_encoder(film());
    seen.words = words("ffmpeg -hwaccel cuda -i film -c:v h264_nvenc out");
    seen.looks[1].session = Some(NvmlSession {
        id: 1,
        pid: 1719,
        codec: "H.264".into(),
        width: 1920,
        height: 1080,
        fps: 120,
        latency: 800,
    });
    let proof = judge(&seen);
    assert_eq!((proof.verdict, proof.pass), (Verdict::Full, true), "{proof:?}");
    assert!(proof.evidence[0].value.contains("1920×1080"), "{:?}", proof.evidence[0]);
}

#[test]
fn the_silent_fall_back_is_found_by_its_line_and_without_it() {
    let mut seen = film();
    seen.looks = vec![look(0, 0), look(0, 0)];
    let log = "[hevc @ 0x1] Failed setup for format cuda: hwaccel initialisation returned error.\n";
    seen.log = Some(("/config/log/a.log".into(), told(log)));
    let proof = judge(&seen);
    assert_eq!((proof.verdict, proof.pass), (Verdict::None, false), "{proof:?}");
    assert!(matches!(&proof.decode, Half::Cpu(why) if why.contains("fell back")), "{:?}", proof.decode);
    assert!(proof.evidence.iter().any(|it| it.value.contains("Failed setup")));
    // no log at hand: the decoder stands still while the process works
    seen.log = None;
    let proof = judge(&seen);
    assert!(matches!(&proof.decode, Half::Cpu(why) if why.contains("stood still")), "{:?}", proof.decode);
    assert_eq!(proof.says, "process 1719 does not use the GeForce GT 1030: the CPU does all the work");
    // one that Jellyfin holds is not accused
    seen.cores = Seen::Is(0.0);
    assert_eq!(judge(&seen).verdict, Verdict::Unknown);
}

#[test]
fn one_look_at_an_idle_engine_proves_nothing() {
    let mut seen = film();
    seen.looks = vec![look(0, 0)];
    seen.cores = Seen::Absent;
    assert_eq!(judge(&seen).verdict, Verdict::Unknown);
    seen.looks.clear();
    seen.unasked = Some("NVML could not be asked: no driver".into());
    let proof = judge(&seen);
    assert_eq!(proof.verdict, Verdict::Unknown);
    assert!(proof.says.ends_with("no driver"), "{}", proof.says);
}

#[test]
fn being_asked_is_no_proof_without_the_library() {
    let mut seen = film();
    for look in &mut seen.looks {
        (look.decoder, look.card_decoder) = (Seen::Absent, Seen::Absent);
    }
    assert_eq!(judge(&seen).verdict, Verdict::Unknown, "the card tells nothing");
    seen.libraries = Seen::Is(Libraries { cuda: true, cuvid: false, encode: false });
    assert!(matches!(judge(&seen).decode, Half::Cpu(why) if why.contains("libnvcuvid is not loaded")));
    seen.libraries = Seen::Unreadable(Reason::PermissionDenied);
    assert_eq!(judge(&seen).verdict, Verdict::Unknown);
}

#[test]
fn what_needs_no_work_is_no_failure() {
    let mut seen = with_encoder(film());
    seen.words = words("ffmpeg -hwaccel cuda -i film -c:v copy out");
    seen.looks = vec![look(0, 0), look(0, 0)];
    let proof = judge(&seen);
    assert_eq!((&proof.decode, proof.verdict), (&Half::None("the video is copied".into()), Verdict::None));
    // an encode of something that is not decoded (a screen)
    seen.words = words("ffmpeg -i screen -c:v h264_nvenc out");
    seen.looks = vec![look(0, 40), look(0, 30)];
    let proof = judge(&seen);
    assert_eq!((proof.verdict, proof.pass), (Verdict::EncodeOnly, false), "{}", proof.says);
}

#[test]
fn another_program_is_judged_by_what_was_measured() {
    let mut seen = film();
    seen.words = words("/usr/bin/ollama runner");
    seen.looks = vec![look(0, 0), look(0, 0)];
    let proof = judge(&seen);
    assert_eq!((proof.verdict, proof.pass), (Verdict::Computes, true));
    seen.looks.iter_mut().for_each(|look| *look = Look::default());
    assert_eq!(judge(&seen).verdict, Verdict::None);
}

//! The page in a real Chromium: what it asks for, what a screen reader is told, keys, colours, and pictures to look at.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use watch::Sample;
use watch::serve::{Options, Server, simulated};

use super::client::{get, here, options, run};

/// What the browser saw; its pictures stay below the target directory.
fn seen(name: &str, make: fn() -> Sample) -> Option<(Value, u16)> {
    if !here("chromium") || !here("python3") {
        return None;
    }
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("page").join(name);
    std::fs::create_dir_all(&folder).expect("a folder");
    // ten minutes go by in three seconds, then time goes on as it does
    let (begun, mut looks) = (SystemTime::now() - Duration::from_secs(600), 0.0);
    let moving = move || {
        looks += 1.0;
        simulated::moving(make(), begun, looks * 5.0)
    };
    let options = Options { every: Duration::from_millis(25), ..options() };
    let server = Server::start(options, moving, simulated::chain).expect("a server");
    let address = server.addresses[0];
    while get(address, "/readyz").0 != 200 {
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_secs(3));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/serve/browser.py");
    let url = format!("http://localhost:{}/", address.port());
    let (code, said) = run(Command::new("python3").args([script, "chromium", &url]).arg(&folder));
    server.stop();
    let line = said.lines().rev().find(|line| line.starts_with('{')).unwrap_or_default();
    let seen: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("status {code}: {said}"));
    for shot in seen["shots"].as_array().into_iter().flatten() {
        println!("{}", shot.as_str().unwrap_or_default());
    }
    println!("first paint, ms: {}; {} bytes in all", seen["first_paint_ms"], seen["bytes"]);
    Some((seen, address.port()))
}

fn has(tree: &Value, role: &str, name: &str) -> bool {
    let mut nodes = tree.as_array().into_iter().flatten();
    nodes.any(|node| node[0] == role && node[1].as_str().is_some_and(|said| said.contains(name)))
}

#[test]
fn the_page_is_whole_quiet_and_can_be_read_to_somebody() {
    let Some((seen, port)) = seen("gt1030", simulated::gt1030) else { return };
    assert_eq!(seen["console"], Value::Array(Vec::new()), "no error, no warning");
    let own = format!("http://localhost:{port}/");
    let requests: Vec<&str> = seen["requests"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    assert!(requests.len() >= 4 && requests.iter().all(|url| url.starts_with(&own)), "{requests:?}");
    let bytes = seen["bytes"].as_u64().unwrap_or(u64::MAX);
    assert!((8_000..100_000).contains(&bytes), "{bytes} bytes in all, the limit is 100 kB");
    assert!(
        seen["first_paint_ms"].as_array().expect("paints").iter().all(|ms| ms.as_f64().is_some_and(|ms| ms < 3000.0))
    );
    for width in ["overflow_light", "overflow_narrow"] {
        assert_eq!(seen[width], 0, "nothing stands out at the side: {width}");
    }
    let tree = &seen["tree"];
    for (role, name) in [
        ("heading", "pve1"),
        ("heading", "The way"),
        ("heading", "Container broken"),
        ("status", ""),
        ("region", "Cards"),
        ("article", "GPU 0: NVIDIA GeForce GT 1030"),
        ("image", "Decoder over the last"),
        ("table", ""),
        ("columnheader", "Decoder"),
        ("rowheader", "jellyfin-ffmpeg"),
        ("link", "Skip to the content"),
        ("button", "Copy: register thruway-runtime with Docker"),
        ("button", "Pause"),
    ] {
        assert!(has(tree, role, name), "no {role} {name:?} in {tree}");
    }
    let nameless = |node: &&Value| matches!(node[0].as_str(), Some("button" | "link" | "image")) && node[1] == "";
    assert_eq!(tree.as_array().into_iter().flatten().find(nameless), None, "each has a name");
    assert_eq!((&seen["lang"], &seen["title"]), (&"en".into(), &"pve1 · thruway".into()));
    for (key, where_to) in [
        ("key_w", "way-title"),
        ("key_c", "cards-title"),
        ("key_f", "findings-title"),
        ("key_j", "f-container-runtime-missing"),
    ] {
        assert_eq!(seen[key], where_to, "{key}");
    }
    assert_eq!((&seen["copy"], &seen["paused"]), (&"copied".into(), &"true".into()));
    for truth in ["lives", "kept", "focus_kept"] {
        assert_eq!(seen[truth], true, "{truth}");
    }
    let plain = seen["without_script"].as_str().unwrap_or_default();
    for told in [
        "broken at the container floor",
        "jellyfin-ffmpeg",
        "media/jellyfin-0",
        "thruway container apply",
        "VM 100 (media)",
    ] {
        assert!(plain.contains(told), "no {told:?} without a script: {plain}");
    }
}

#[test]
fn eight_cards_are_shown() {
    let Some((seen, _)) = seen("h100x8", simulated::h100x8) else { return };
    assert!((0..8).all(|n| has(&seen["tree"], "article", &format!("GPU {n}: NVIDIA H100"))), "{}", seen["tree"]);
    assert_eq!(seen["overflow_narrow"], 0);
}

#[test]
fn hostile_names_run_nothing() {
    let Some((seen, port)) = seen("hostile", simulated::hostile) else { return };
    assert_eq!(seen["title"], "pve1 · thruway");
    assert_eq!(seen["console"], Value::Array(Vec::new()));
    let own = format!("http://localhost:{port}/");
    assert!(
        seen["requests"]
            .as_array()
            .into_iter()
            .flatten()
            .all(|url| url.as_str().is_some_and(|url| url.starts_with(&own)))
    );
    assert!(seen["without_script"].as_str().is_some_and(|text| text.contains("<script>document.title='owned'")));
}

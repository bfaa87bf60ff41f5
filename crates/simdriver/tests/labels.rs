//! What the cluster floor says of every simulated machine: its labels as a whole, held to `labels.txt`; and that what is
//! offered is in the CDI spec of the same machine, by the same names.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::print_stdout, reason = "reads what it laid out")]

#[path = "common/nvml.rs"]
mod nvml;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use kube::gfd;
use kube::plugin::config::{Replicate, Replicated, Sharing};
use kube::plugin::{Config, Found, MigStrategy, found, offer};
use machine::Root;
use simcards::view::View;
use simdriver::{Built, Layout, lay};

/// Three cards of two models; the odd one first.
const TWO_MODELS: &str = "\
[driver]
version = \"580.159.04\"
cuda = 13000
[[gpus]]
card = \"rtx4090\"
[[gpus]]
card = \"t4\"
count = 2
";

/// All cards cut alike.
const ALIKE: &str = "\
[driver]
version = \"580.159.04\"
cuda = 13000
[[gpus]]
card = \"a100\"
count = 2
[gpus.set.mig]
enabled = true
instances = [{ profile = \"3g.20gb\", gi = 1, start = 4 }, { profile = \"3g.20gb\", gi = 2, start = 0 }]
";

/// The text of a box, the strategy, replicas.
fn machines() -> Vec<(String, String, Config)> {
    let mut all = Vec::new();
    for (name, text) in simcards::card::BOXES {
        all.push((format!("{name}, none"), text.to_string(), Config::default()));
    }
    let mut add = |name: &str, text: &str, mig, sharing| {
        all.push((name.to_owned(), text.to_owned(), Config { mig, sharing, ..Config::default() }));
    };
    let named = |name| View::named(name).expect("a box");
    let shared = |rename_by_default| {
        let one = Replicated { name: "nvidia.com/gpu".into(), rename: None, devices: Replicate::All, replicas: 4 };
        Some(Sharing { rename_by_default, resources: vec![one], ..Sharing::default() })
    };
    add("a100-mig, mixed", named("a100-mig"), MigStrategy::Mixed, None);
    add("a100-mig, single (its instances differ)", named("a100-mig"), MigStrategy::Single, None);
    add("h100-mig, mixed", named("h100-mig"), MigStrategy::Mixed, None);
    add("two A100 cut alike, single", ALIKE, MigStrategy::Single, None);
    add("two A100 cut alike, single, shared", ALIKE, MigStrategy::Single, shared(false));
    add("a 4090 and two T4", TWO_MODELS, MigStrategy::None, None);
    add("a T4, shared", named("t4"), MigStrategy::None, shared(false));
    add("a T4, shared and renamed", named("t4"), MigStrategy::None, shared(true));
    all
}

/// A laid-out machine as it is looked at, once for all its configurations.
struct Laid {
    text: String,
    root: Root,
    inventory: gpu::Inventory,
    found: Found,
    spec: BTreeSet<String>,
    _folder: tempfile::TempDir,
}

/// None: device nodes cannot be made here.
fn laid(text: &str) -> Option<Laid> {
    let built = Built(std::env::current_exe().expect("this test").parent().expect("its folder").to_owned());
    let folder = tempfile::Builder::new().prefix("labels").tempdir().expect("a directory");
    let laid = lay(folder.path(), text, Layout::Ubuntu, &built).expect("lays out");
    if !laid.missing_nodes.is_empty() {
        return None;
    }
    nvml::answer(&laid, text);
    let machine = Root::tree(&laid.root).expect("a tree");
    let inventory = gpu::observe_all(&machine);
    let found = found::look(&machine, &inventory);
    let options = cdi::Options { names: vec![cdi::Naming::Uuid], no_all: true, ..cdi::Options::default() };
    let spec = cdi::generate(&machine, &inventory, &options).expect("a spec").spec;
    let spec = spec.devices.iter().map(|device| format!("{}={}", spec.kind, device.name)).collect();
    Some(Laid { text: text.to_owned(), root: machine, inventory, found, spec, _folder: folder })
}

#[test]
fn every_machines_labels() {
    let mut text = String::new();
    let mut machines_seen: Vec<Laid> = Vec::new();
    for (name, machine, config) in machines() {
        if !machines_seen.iter().any(|seen| seen.text == machine) {
            let Some(new) = laid(&machine) else {
                println!("SKIP: only root can make device nodes");
                return;
            };
            machines_seen.push(new);
        }
        let seen = machines_seen.iter().find(|seen| seen.text == machine).expect("laid out");
        let facts = gfd::Facts::observe(&seen.root, &seen.inventory, &seen.found, &config);
        let offered = offer(&config, &seen.found).map(|offer| offer.resources).unwrap_or_default();
        let offered = offered.iter().flat_map(|resource| &resource.devices).map(|device| device.cdi_name.clone());
        let offered: BTreeSet<String> = offered.collect();
        let _ = writeln!(text, "[{name}]");
        for (key, value) in &gfd::labels(&facts, &config) {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            assert!(value.len() <= 63 && value.chars().all(plain), "{key}: {value}");
            assert!(gfd::is_ours(key), "{key}");
            let _ = writeln!(text, "{key}={value}");
        }
        text.push('\n');
        // what is offered can be given, and with whole cards or both all that can be given is offered
        assert!(offered.is_subset(&seen.spec), "{name}: {offered:?} {:?}", seen.spec);
        let cut = seen.found.gpus.iter().any(|gpu| gpu.mig);
        if !cut || config.mig == MigStrategy::Mixed {
            assert_eq!(offered, seen.spec, "{name}");
        }
    }
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/labels.txt");
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    if golden != text {
        let new = std::env::temp_dir().join("labels.txt");
        std::fs::write(&new, &text).expect("writes");
        let first = golden.lines().zip(text.lines()).find(|(a, b)| a != b);
        panic!(
            "the labels are others than in {}, first {first:?}; what they are now is in {}",
            path.display(),
            new.display()
        );
    }
}

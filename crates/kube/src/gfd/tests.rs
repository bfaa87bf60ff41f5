use super::*;
use crate::plugin::MigStrategy;
use crate::plugin::config::{LabelWish, Naming, Replicate, Replicated, Sharing};

fn card(product: &str) -> Card {
    Card {
        product: product.into(),
        memory: Some(16_384),
        compute: Some((8, 9)),
        class: Some(0x0302),
        ..Card::default()
    }
}

fn facts(cards: Vec<Card>) -> Facts {
    Facts { driver: Some("580.159.04".into()), cuda: Some((13, 0)), cards, ..Facts::default() }
}

fn of(facts: &Facts, key: &str) -> Option<String> {
    with(facts, &Config::default(), key)
}

fn with(facts: &Facts, config: &Config, key: &str) -> Option<String> {
    let all = labels(facts, config);
    for (key, value) in &all {
        let name = key.split_once('/').map_or("", |(_, name)| name);
        let edge = |text: &str| text.ends_with(|c: char| !c.is_ascii_alphanumeric());
        assert!(name.len() <= 63 && value.len() <= 63 && !edge(value) && !edge(name) && is_ours(key), "{key}={value}");
    }
    all.get(key).cloned()
}

#[test]
fn without_a_driver_or_a_card_nothing_is_true() {
    let no_driver = Facts { driver: None, ..facts(vec![card("A")]) };
    assert!(labels(&no_driver, &Config::default()).is_empty());
    assert!(labels(&facts(Vec::new()), &Config::default()).is_empty());
    assert_eq!(of(&facts(vec![card("A")]), "nvidia.com/gpu.present").as_deref(), Some("true"));
}

#[test]
fn names_become_values() {
    for (name, wanted) in [
        ("NVIDIA GeForce RTX 4090", Some("NVIDIA-GeForce-RTX-4090")),
        ("Quadro  RTX\t6000/8000", Some("Quadro-RTX-60008000")),
        ("GRID T4-16Q (beta)", Some("GRID-T4-16Q-beta")),
        ("_.odd.-", Some("odd")),
        ("ß€", None),
    ] {
        assert_eq!(of(&facts(vec![card(name)]), "nvidia.com/gpu.product").as_deref(), wanted, "{name}");
    }
    let long = "x".repeat(80);
    let product = of(&facts(vec![card(&long)]), "nvidia.com/gpu.product");
    assert_eq!(product.map(|text| text.len()), Some(63));
    // what distinguishes is kept, the name before it is cut
    let part = Part { profile: "1g.5gb+me".into(), ..Part::default() };
    let cut = Card { mig: true, parts: vec![part], ..card(&long) };
    let one = Replicated { name: "nvidia.com/gpu".into(), rename: None, devices: Replicate::All, replicas: 2 };
    let sharing = Some(Sharing { resources: vec![one], ..Sharing::default() });
    let config = Config { mig: MigStrategy::Single, sharing, ..Config::default() };
    let product = with(&facts(vec![cut]), &config, "nvidia.com/gpu.product").unwrap_or_default();
    assert!(product.ends_with("x-MIG-1g.5gbme-SHARED") && product.len() == 63, "{product}");
}

#[test]
fn families() {
    for (compute, wanted) in [
        ((1, 3), "tesla"),
        ((3, 5), "kepler"),
        ((5, 2), "maxwell"),
        ((6, 1), "pascal"),
        ((7, 0), "volta"),
        ((7, 2), "volta"),
        ((7, 5), "turing"),
        ((8, 7), "ampere"),
        ((8, 9), "ada-lovelace"),
        ((9, 0), "hopper"),
        ((10, 3), "blackwell"),
        ((12, 0), "blackwell"),
        ((13, 0), "rubin"),
        ((4, 0), "undefined"),
        ((99, 0), "undefined"),
    ] {
        let found = of(&facts(vec![Card { compute: Some(compute), ..card("A") }]), "nvidia.com/gpu.family");
        assert_eq!(found.as_deref(), Some(wanted), "{compute:?}");
    }
    assert_eq!(of(&facts(vec![Card { compute: None, ..card("A") }]), "nvidia.com/gpu.family"), None);
    assert_eq!(of(&facts(vec![Card { memory: None, ..card("A") }]), "nvidia.com/gpu.memory"), None);
}

#[test]
fn versions_of_every_form() {
    let driver = |version: &str, key: &str| {
        of(&Facts { driver: Some(version.into()), ..facts(vec![card("A")]) }, &format!("nvidia.com/cuda.driver{key}"))
    };
    assert_eq!(driver("550.107.02", "-version.full").as_deref(), Some("550.107.02"));
    assert_eq!(driver("550.107.02", ".rev").as_deref(), Some("02"));
    assert_eq!(
        (driver("590.48", "-version.minor").as_deref(), driver("590.48", "-version.revision").as_deref()),
        (Some("48"), Some(""))
    );
    for odd in ["550", "1.2.3.4", ""] {
        assert_eq!(driver(odd, "-version.full"), None, "{odd}");
    }
    assert_eq!(of(&Facts { cuda: None, ..facts(vec![card("A")]) }, "nvidia.com/cuda.runtime.major"), None);
}

#[test]
fn several_models_are_always_told_the_same() {
    let mut cards = vec![card("A"), card("B"), card("B"), card("C")];
    let config = Config::default();
    let first = labels(&facts(cards.clone()), &config);
    let get = |key: &str| first.get(key).map(String::as_str);
    assert_eq!((get("nvidia.com/gpu.product"), get("nvidia.com/gpu.count")), (Some("B"), Some("2")));
    assert_eq!((get("thruway.dev/gpu-model.A"), get("thruway.dev/gpu-model.B")), (Some("1"), Some("2")));
    cards.rotate_left(1);
    assert_eq!(labels(&facts(cards), &config), first);
    // as many of each: the first by index
    assert_eq!(of(&facts(vec![card("Z"), card("A")]), "nvidia.com/gpu.product").as_deref(), Some("Z"));
    let one = labels(&facts(vec![card("A")]), &config);
    assert!(!one.keys().any(|key| key.starts_with("thruway.dev/")), "{one:?}");
    let long = ["x".repeat(80) + "1", "x".repeat(80) + "2"].map(|name| card(&name));
    assert_eq!(of(&facts(long.to_vec()), &format!("thruway.dev/gpu-model.{}", "x".repeat(53))).as_deref(), Some("2"));
}

#[test]
fn a_resource_of_its_own_has_labels_of_its_own() {
    let naming = Naming { pattern: "A*".into(), name: "nvidia.com/big".into() };
    let config = Config { names: vec![naming], ..Config::default() };
    let node = facts(vec![card("A1"), card("B"), card("B")]);
    assert_eq!(with(&node, &config, "nvidia.com/big.product").as_deref(), Some("A1"));
    assert_eq!(with(&node, &config, "nvidia.com/big.count").as_deref(), Some("1"));
    assert_eq!(with(&node, &config, "nvidia.com/gpu.product").as_deref(), Some("B"));
    // a key that would be too long is no label
    let naming = Naming { pattern: "A*".into(), name: format!("nvidia.com/{}", "a".repeat(50)) };
    let config = Config { names: vec![naming.clone()], ..Config::default() };
    assert_eq!(with(&node, &config, &format!("{}.product", naming.name)).as_deref(), Some("A1"));
    assert_eq!(with(&node, &config, &format!("{}.sharing-strategy", naming.name)), None);
}

#[test]
fn what_all_cards_share() {
    let fabric = |id: &str, clique| Card { fabric: Some((id.into(), clique)), ..card("A") };
    let clique = |cards| of(&facts(cards), "nvidia.com/gpu.clique");
    assert_eq!(clique(vec![fabric("c1", 3), card("A"), fabric("c1", 3)]).as_deref(), Some("c1.3"));
    assert_eq!(clique(vec![fabric("c1", 3), fabric("c1", 4)]), None);
    assert_eq!(clique(vec![card("A")]), None);
    let class = |class| Card { class, ..card("A") };
    let mode = |cards| of(&facts(cards), "nvidia.com/gpu.mode").unwrap_or_default();
    assert_eq!(mode(vec![class(Some(0x0302)), class(Some(0x0302))]), "compute");
    assert_eq!(mode(vec![class(Some(0x0300))]), "graphics");
    assert_eq!(mode(vec![class(Some(0x0302)), class(Some(0x0300))]), "unknown");
    assert_eq!(mode(vec![class(None)]), "unknown");
}

#[test]
fn time_machine_and_vgpu() {
    let mut node = facts(vec![card("A")]);
    assert_eq!((of(&node, "nvidia.com/gfd.timestamp"), of(&node, "nvidia.com/vgpu.present")), (None, None));
    assert_eq!(of(&node, "nvidia.com/gpu.machine").as_deref(), Some("unknown"));
    node.timestamp = Some(1_764_115_200);
    node.machine = Some("Standard PC (Q35 + ICH9, 2009)".into());
    node.vgpu = Some(Vgpu { driver: "550.54.15".into(), branch: "r550_40".into() });
    assert_eq!(of(&node, "nvidia.com/gfd.timestamp").as_deref(), Some("1764115200"));
    assert_eq!(of(&node, "nvidia.com/gpu.machine").as_deref(), Some("Standard-PC-Q35-ICH9-2009"));
    assert_eq!(of(&node, "nvidia.com/vgpu.host-driver-branch").as_deref(), Some("r550_40"));
    let quiet = Config { labels: LabelWish { no_timestamp: true, ..LabelWish::default() }, ..Config::default() };
    assert_eq!(with(&node, &quiet, "nvidia.com/gfd.timestamp"), None);
}

#[test]
fn a_single_strategy_that_is_none() {
    let part = |profile: &str| Part { profile: profile.into(), ..Part::default() };
    let cut =
        |profiles: &[&str]| Card { mig: true, parts: profiles.iter().map(|one| part(one)).collect(), ..card("A") };
    let config = Config { mig: MigStrategy::Single, ..Config::default() };
    for cards in [vec![cut(&["1g.5gb"]), card("A")], vec![cut(&[])], vec![cut(&["1g.5gb", "2g.10gb"])]] {
        let node = facts(cards);
        assert_eq!(with(&node, &config, "nvidia.com/gpu.product").as_deref(), Some("A-MIG-INVALID"));
        assert_eq!(with(&node, &config, "nvidia.com/gpu.count").as_deref(), Some("0"));
    }
    assert_eq!(with(&facts(vec![card("A")]), &config, "nvidia.com/gpu.product").as_deref(), Some("A"));
    // a part of an instance: numbers that the driver does not tell are not told
    let node = facts(vec![cut(&["1c.3g.20gb"])]);
    assert_eq!(
        (slices("1c.3g.20gb"), slices("3g.20gb"), slices("1g.5gb+me"), slices("odd")),
        ((Some(3), Some(1)), (Some(3), Some(3)), (Some(1), Some(1)), (None, None))
    );
    assert_eq!(with(&node, &config, "nvidia.com/gpu.memory"), None);
}

#[test]
fn others_labels_are_not_ours() {
    for key in [
        "nvidia.com/gpu",
        "nvidia.com/gpu.deploy.driver",
        "nvidia.com/gpu.workload.config",
        "nvidia.com/mig.config",
        "nvidia.com/mig.config.state",
        "nvidia.com/device-plugin.config",
        "nvidia.com/gpu-driver-upgrade-state",
        "nvidia.com/.product",
        "example.com/gpu.product",
        "thruway.dev/nvidia-pci.present",
        "thruway.dev/gpu-0.host-numa",
        "gpu.product",
    ] {
        assert!(!is_ours(key), "{key}");
    }
}

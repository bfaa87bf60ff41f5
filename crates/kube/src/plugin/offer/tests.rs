use super::*;
use crate::plugin::config::{Imex, Replicated, Sharing};
use crate::plugin::fixtures::{cut, found, gpu, gpus};

fn shapes(offer: &Offer) -> Vec<(String, usize)> {
    offer.resources.iter().map(|resource| (resource.name.clone(), resource.devices.len())).collect()
}

fn with(mig: MigStrategy) -> Config {
    Config { mig, ..Config::default() }
}

fn one(name: &str, count: usize) -> (String, usize) {
    (format!("nvidia.com/{name}"), count)
}

fn sliced(resources: Vec<Replicated>) -> Config {
    Config { sharing: Some(Sharing { resources, ..Sharing::default() }), ..Config::default() }
}

fn twice(name: &str) -> Replicated {
    Replicated { name: name.into(), rename: None, devices: Replicate::All, replicas: 2 }
}

#[test]
fn whole_cards() {
    let offer = offer(&Config::default(), &gpus(2)).expect("an offer");
    assert_eq!(shapes(&offer), [one("gpu", 2)]);
    let device = &offer.resources[0].devices[1];
    let uuid = gpu(1).uuid.expect("a UUID");
    assert_eq!((&device.id, &device.gpu, device.index.as_str()), (&uuid, &uuid, "1"));
    assert_eq!(device.cdi_name, format!("nvidia.com/gpu={uuid}"));
    // a DRM node is the display's, and CDI's
    assert_eq!(device.nodes, ["/dev/nvidia1"]);
    assert_eq!(offer.resources[0].socket(), "thruway-gpu.sock");
    assert_eq!(super::offer(&Config::default(), &Found::default()), Ok(Offer::default()));
}

#[test]
fn what_is_not_offered_is_said() {
    let mut node = gpus(6);
    node.gpus[0].withheld = Some("vfio-pci holds it, for a VM".into());
    node.gpus[1].uuid = None;
    node.gpus[2].nodes.clear();
    node.gpus[3] = cut(3, &["1g.5gb"]);
    node.gpus[5].uuid = node.gpus[4].uuid.clone();
    let offer = offer(&Config::default(), &node).expect("an offer");
    assert_eq!(shapes(&offer), [one("gpu", 1)]);
    let whys: Vec<&str> = offer.left_out.iter().map(|left| left.why.as_str()).collect();
    for (why, wanted) in
        whys.iter().zip(["vfio-pci holds it", "does not tell its UUID", "no device node", "MIG is on", "the same UUID"])
    {
        assert!(why.contains(wanted), "{why}: {wanted}");
    }
    assert_eq!(whys.len(), 5);
}

#[test]
fn the_strategy_single() {
    let alike = found(vec![cut(0, &["1g.5gb"; 7]), cut(1, &["1g.5gb"; 7])]);
    let made = offer(&with(MigStrategy::Single), &alike).expect("an offer");
    assert_eq!(shapes(&made), [one("gpu", 14)]);
    let device = &made.resources[0].devices[8];
    assert_eq!((device.index.as_str(), device.profile.as_deref()), ("1:1", Some("1g.5gb")));
    assert_eq!(device.nodes, ["/dev/nvidia1", "/dev/nvidia-caps/nvidia-cap101"]);
    assert!(device.cdi_name.starts_with("nvidia.com/gpu=MIG-") && device.gpu.starts_with("GPU-"));
    // no card is cut: whole ones, as with none
    assert_eq!(shapes(&offer(&with(MigStrategy::Single), &gpus(2)).expect("an offer")), [one("gpu", 2)]);
    for (cards, wanted) in [
        (vec![cut(0, &["1g.5gb"]), gpu(1)], "has MIG off, and others have it on"),
        (vec![cut(0, &["1g.5gb"]), cut(1, &[])], "has MIG on and no instance"),
        (vec![cut(0, &["1g.5gb", "2g.10gb"])], "of several profiles: 1g.5gb, 2g.10gb"),
    ] {
        let refusal = offer(&with(MigStrategy::Single), &found(cards)).expect_err(wanted);
        assert!(refusal.says.contains(wanted), "{refusal}");
    }
    // a card that is not offered does not spoil the others
    let mut node = found(vec![cut(0, &["1g.5gb"]), gpu(1)]);
    node.gpus[1].withheld = Some("it is promised to vm:100".into());
    assert_eq!(shapes(&offer(&with(MigStrategy::Single), &node).expect("an offer")), [one("gpu", 1)]);
}

#[test]
fn the_strategy_mixed() {
    let node = found(vec![gpu(0), cut(1, &["1g.5gb", "1g.5gb", "1g.5gb+me", "1c.3g.20gb"]), cut(2, &[])]);
    let made = offer(&with(MigStrategy::Mixed), &node).expect("an offer");
    assert_eq!(shapes(&made), [one("gpu", 1), one("mig-1g.5gb", 2), one("mig-1g.5gb.me", 1)]);
    assert_eq!(made.resources[2].socket(), "thruway-mig-1g.5gb.me.sock");
    let whys: Vec<&str> = made.left_out.iter().map(|left| left.why.as_str()).collect();
    assert!(whys[0].contains("1c.3g.20gb") && whys[1].contains("it is not cut"), "{whys:?}");
    // a name of its own takes even a part of an instance
    let naming = Naming { pattern: "1c.3g*".into(), name: "nvidia.com/third".into() };
    let config = Config { mig_names: vec![naming], ..with(MigStrategy::Mixed) };
    assert!(shapes(&offer(&config, &node).expect("an offer")).contains(&one("third", 1)));
}

#[test]
fn names_by_product() {
    let mut node = gpus(3);
    node.gpus[2].product = "NVIDIA GeForce GT 1030".into();
    let naming = |pattern: &str, name: &str| Naming { pattern: pattern.into(), name: format!("nvidia.com/{name}") };
    let config = Config { names: vec![naming("*-SXM4-40GB", "a100"), naming("*", "any")], ..Config::default() };
    assert_eq!(shapes(&offer(&config, &node).expect("an offer")), [one("a100", 2), one("any", 1)]);
    // what no pattern takes keeps its name
    let config = Config { names: vec![naming("A100-SXM4", "a100")], ..Config::default() };
    assert_eq!(shapes(&offer(&config, &node).expect("an offer")), [one("a100", 2), one("gpu", 1)]);
}

#[test]
fn include_and_exclude() {
    let node = found(vec![gpu(0), gpu(1), cut(2, &["1g.5gb", "1g.5gb"])]);
    let ask = |include: &[&str], exclude: &[&str]| {
        let read = |list: &[&str]| list.iter().map(|text| text.parse().expect("a card")).collect();
        let config = Config { include: read(include), exclude: read(exclude), ..with(MigStrategy::Mixed) };
        shapes(&offer(&config, &node).expect("an offer"))
    };
    let (gpu0, part) = (gpu(0).uuid.unwrap_or_default(), node.gpus[2].parts[1].uuid.clone().unwrap_or_default());
    assert_eq!(ask(&[], &["0"]), [one("gpu", 1), one("mig-1g.5gb", 2)]);
    assert_eq!(ask(&[&gpu0], &[]), [one("gpu", 1)]);
    assert_eq!(ask(&["0000:11:00.0", "2"], &[]), [one("gpu", 1), one("mig-1g.5gb", 2)]);
    assert_eq!(ask(&["*a100*"], &["2"]), [one("gpu", 2)]);
    assert_eq!(ask(&[&part], &[]), [one("mig-1g.5gb", 1)]);
    assert_eq!(ask(&[], &[&part]), [one("gpu", 2), one("mig-1g.5gb", 1)]);
    assert_eq!(ask(&["0"], &["0"]), []);
}

#[test]
fn replicas() {
    let made = offer(&sliced(vec![twice("nvidia.com/gpu")]), &gpus(2)).expect("an offer");
    assert_eq!(shapes(&made), [one("gpu", 4)]);
    let ids: Vec<&str> = made.resources[0].devices.iter().map(|device| device.id.as_str()).collect();
    let uuid = gpu(0).uuid.unwrap_or_default();
    assert_eq!(ids[..2], [format!("{uuid}::0"), format!("{uuid}::1")]);
    assert_eq!(made.resources[0].devices[1].cdi_name, format!("nvidia.com/gpu={uuid}"));
    assert_eq!(made.resources[0].shared, Some(Shared { replicas: 2, fail_requests_greater_than_one: false }));
    let mut config = sliced(vec![twice("nvidia.com/gpu")]);
    config.sharing.as_mut().expect("sharing").rename_by_default = true;
    assert_eq!(shapes(&offer(&config, &gpus(2)).expect("an offer")), [one("gpu.shared", 4)]);
    let rename =
        Replicated { rename: Some("nvidia.com/slice".into()), devices: Replicate::Count(1), ..twice("nvidia.com/gpu") };
    let made = offer(&sliced(vec![rename]), &gpus(3)).expect("an offer");
    assert_eq!(shapes(&made), [one("gpu", 2), one("slice", 2)]);
    assert_eq!((made.resources[0].shared, made.resources[1].shared.is_some()), (None, true));
    let list = Replicated { devices: Replicate::List(vec!["2".into(), uuid.clone()]), ..twice("nvidia.com/gpu") };
    assert_eq!(shapes(&offer(&sliced(vec![list]), &gpus(3)).expect("an offer")), [one("gpu", 5)]);
    // instances too
    let mut config = sliced(vec![twice("nvidia.com/mig-1g.5gb")]);
    config.mig = MigStrategy::Mixed;
    let made = offer(&config, &found(vec![cut(0, &["1g.5gb"])])).expect("an offer");
    assert_eq!(shapes(&made), [one("mig-1g.5gb", 2)]);
    // a resource that is not here
    let made = offer(&sliced(vec![twice("nvidia.com/mig-1g.5gb")]), &gpus(1)).expect("an offer");
    assert!(made.notes[0].contains("has no such resource"), "{:?}", made.notes);
}

#[test]
fn the_kubelets_bounds() {
    let naming = Naming { pattern: "*".into(), name: format!("nvidia.com/{}", "a".repeat(50)) };
    let mut config = Config { names: vec![naming.clone()], ..sliced(vec![twice(&naming.name)]) };
    config.sharing.as_mut().expect("sharing").rename_by_default = true;
    let refusal = offer(&config, &gpus(1)).expect_err("68 characters");
    assert!(refusal.says.contains("has 68 characters"), "{refusal}");
    // an id that the kubelet would not take is left out, and the others stay
    let mut node = gpus(2);
    node.gpus[0].uuid = Some(format!("GPU-{}", "0".repeat(60)));
    let made = offer(&Config::default(), &node).expect("an offer");
    assert_eq!((shapes(&made), made.left_out.len()), (vec![one("gpu", 1)], 1));
    let config = Config { imex: Imex { channels: vec![0], required: true }, ..Config::default() };
    assert!(offer(&config, &gpus(1)).is_ok());
    let refusal = offer(&config, &Found { imex: Vec::new(), ..gpus(1) }).expect_err("no channel");
    assert!(refusal.says.contains("IMEX channel 0 is required"), "{refusal}");
}

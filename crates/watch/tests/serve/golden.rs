//! Each flavour of names over three machines, whole.

use watch::Sample;
use watch::serve::chain::Chain;
use watch::serve::{Form, HostLabel, Names, Options, render, simulated};

fn text(sample: &Sample, names: Names) -> String {
    let options = Options { names: vec![names], host: "pve1".into(), ..Options::default() };
    render(sample, &simulated::chain(), &options, Form::Prometheus)
}

#[test]
fn every_flavour_is_as_it_was() {
    let boxes = [("gt1030", simulated::gt1030()), ("h100x8", simulated::h100x8()), ("mig", simulated::mig())];
    let flavours =
        [("thruway", Names::Thruway), ("dcgm", Names::Dcgm), ("nvidia_gpu_exporter", Names::NvidiaGpuExporter)];
    for (machine, sample) in boxes {
        for (flavour, names) in flavours {
            insta::assert_snapshot!(format!("{flavour}-{machine}"), text(&sample, names));
        }
    }
}

#[test]
fn what_a_card_does_not_tell_has_no_series() {
    let gt1030 = simulated::gt1030();
    for names in [Names::Thruway, Names::Dcgm, Names::NvidiaGpuExporter] {
        let text = text(&gt1030, names);
        for absent in
            ["thruway_gpu_power_watts", "ecc_errors", "DCGM_FI_DEV_POWER_USAGE", "nvidia_smi_power_draw_watts", "mig"]
        {
            assert!(!text.contains(absent), "{absent} of a GT 1030 in\n{text}");
        }
    }
    let mig = text(&simulated::mig(), Names::Thruway);
    assert!(!mig.contains("thruway_gpu_encoder_ratio") && mig.contains("thruway_mig_memory_used_bytes"), "{mig}");
}

#[test]
fn a_pods_decoder_is_told_by_its_names() {
    let text = text(&simulated::gt1030(), Names::Thruway);
    let line = text.lines().find(|line| line.starts_with("thruway_container_decoder_ratio{")).expect("the series");
    for label in [r#"namespace="media""#, r#"pod="jellyfin-0""#, r#"container="jellyfin""#, r#"app="jellyfin""#] {
        assert!(line.contains(label), "no {label} in {line}");
    }
    assert!(line.ends_with(" 0.41"), "{line}");
}

#[test]
fn dcgm_tells_of_a_cut_cards_instances() {
    let text = text(&simulated::mig(), Names::Dcgm);
    let used: Vec<&str> = text.lines().filter(|line| line.starts_with("DCGM_FI_DEV_FB_USED{")).collect();
    assert_eq!(used.len(), 3, "{used:?}");
    assert!(used[2].contains("GPU_I_PROFILE=\"3g.40gb\",GPU_I_ID=\"9\",") && used[2].ends_with(" 300"), "{used:?}");
}

#[test]
fn dcgm_spells_the_host_as_asked() {
    let with = |dcgm_host| {
        let options = Options { names: vec![Names::Dcgm], host: "pve1".into(), dcgm_host, ..Options::default() };
        render(&simulated::gt1030(), &Chain::default(), &options, Form::Prometheus)
    };
    assert!(with(HostLabel::Upper).contains(r#"Hostname="pve1""#));
    assert!(with(HostLabel::Lower).contains(r#",hostname="pve1""#));
}

#[test]
fn too_many_owners_are_counted() {
    let options = Options { most: 10, ..Options::default() };
    let text = render(&simulated::h100x8(), &simulated::chain(), &options, Form::Prometheus);
    let shown = text.lines().filter(|line| line.starts_with("thruway_container_memory_bytes{")).count();
    assert_eq!(shown, 10);
    assert!(text.contains("thruway_series_dropped{family=\"thruway_container_memory_bytes\"} 46\n"), "{text}");
}

use super::*;

fn parse(text: &str) -> Config {
    Config::parse(text).unwrap_or_else(|bad| panic!("{bad}"))
}

fn bad(text: &str) -> String {
    Config::parse(text).expect_err("wrong").to_string()
}

/// All that NVIDIA's documentation shows, in one file.
const WHOLE: &str = "\
version: v1
flags:
  migStrategy: mixed
  failOnInitError: true
  mpsRoot: ''
  nvidiaDriverRoot: /run/nvidia/driver
  nvidiaDevRoot: /
  gdrcopyEnabled: true
  gdsEnabled: true
  mofedEnabled: false
  useNodeFeatureAPI: true
  deviceDiscoveryStrategy: auto
  plugin:
    passDeviceSpecs: true
    deviceListStrategy:
      - envvar
      - cdi-annotations
    deviceIDStrategy: index
    cdiAnnotationPrefix: cdi.example.com/
    nvidiaCTKPath: /usr/bin/nvidia-ctk
    containerDriverRoot: /host/driver
    sharedDevicesAllocationPolicy: packed
  gfd:
    oneshot: true
    noTimestamp: true
    outputFile: /features/gfd
    sleepInterval: 1m30s
    machineTypeFile: /machine
resources:
  gpus:
    - pattern: '*A100*'
      name: a100
  mig:
    - pattern: 1g.5gb
      name: nvidia.com/small
sharing:
  timeSlicing:
    renameByDefault: true
    failRequestsGreaterThanOne: true
    resources:
      - name: nvidia.com/gpu
        replicas: 4
      - name: a100
        rename: a100-slice
        devices: [0, '1:2', GPU-b1028956-cfa2-0990-bf4a-5da9abb51763]
        replicas: 2
imex:
  channelIDs: [0]
  required: true
thruway:
  include: [0, '26:00.0', GPU-1, '*GT 1030*']
  exclude: ['2']
  health:
    ignore: [94]
    hold: 20s
    holdReset: 10m
    looks: 5
    retest: 500ms
";

#[test]
fn nvidias_file_is_read_as_it_is() {
    let config = parse(WHOLE);
    assert_eq!((config.mig, config.fail_on_init_error), (MigStrategy::Mixed, true));
    assert_eq!((config.driver_root.as_str(), config.dev_root()), ("/run/nvidia/driver", "/"));
    assert_eq!((config.gds, config.gdrcopy, config.mofed), (true, true, false));
    assert_eq!(config.list, [ListStrategy::Envvar, ListStrategy::CdiAnnotations].into());
    assert_eq!((config.ids, config.pass_device_specs), (IdStrategy::Index, true));
    assert_eq!(
        (config.annotation_prefix.as_str(), config.container_driver_root.as_str()),
        ("cdi.example.com/", "/host/driver")
    );
    assert_eq!(config.shared_policy, SharedPolicy::Packed);
    let labels = LabelWish {
        oneshot: true,
        no_timestamp: true,
        interval: Some(90_000),
        output_file: Some("/features/gfd".into()),
        machine_type_file: "/machine".into(),
    };
    assert_eq!(config.labels, labels);
    assert_eq!(config.names, [Naming { pattern: "*A100*".into(), name: "nvidia.com/a100".into() }]);
    assert_eq!(config.mig_names, [Naming { pattern: "1g.5gb".into(), name: "nvidia.com/small".into() }]);
    let sharing = config.sharing.expect("sharing");
    assert!(sharing.rename_by_default && sharing.fail_requests_greater_than_one);
    let list = ["0", "1:2", "GPU-b1028956-cfa2-0990-bf4a-5da9abb51763"].map(str::to_owned);
    let gpu = Replicated { name: "nvidia.com/gpu".into(), rename: None, devices: Replicate::All, replicas: 4 };
    let a100 = Replicated {
        name: "nvidia.com/a100".into(),
        rename: Some("nvidia.com/a100-slice".into()),
        devices: Replicate::List(list.into()),
        replicas: 2,
    };
    assert_eq!(sharing.resources, [gpu, a100]);
    assert_eq!(config.imex, Imex { channels: vec![0], required: true });
    let which = [
        Which::Index(0),
        Which::Bdf(model::Bdf::new(0, 0x26, 0, 0)),
        Which::Uuid("GPU-1".into()),
        Which::Product("*GT 1030*".into()),
    ];
    assert_eq!(
        (config.include.as_slice(), config.exclude.as_slice()),
        (which.as_slice(), [Which::Index(2)].as_slice())
    );
    let health = &config.health;
    assert_eq!((health.ignore.as_slice(), health.hold, health.hold_reset), ([94].as_slice(), 20_000, 600_000));
    assert_eq!((health.looks, health.retest), (5, 500));
    // what NVIDIA's own plugin passes over is told, what is as the chart writes it is not
    assert_eq!(config.notes.len(), 2, "{:?}", config.notes);
}

#[test]
fn nothing_said_is_the_default() {
    for text in ["", "# nothing\n", "version: v1\n", "{}", "flags:\n  plugin:\n", "flags: {migStrategy: ''}"] {
        assert_eq!(parse(text), Config::default(), "{text:?}");
    }
    let config = Config::default();
    assert_eq!(config.list, [ListStrategy::CdiCri].into());
    assert!(config.cdi() && config.cdi_only());
    // JSON is YAML
    assert_eq!(
        parse(r#"{"version":"v1","flags":{"plugin":{"deviceListStrategy":"envvar"}}}"#).list,
        [ListStrategy::Envvar].into()
    );
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    for (text, wanted) in [
        ("version: v2\n", "line 1, version: is \"v2\", and this program reads v1"),
        ("flags:\n  migStrategy: both\n", "line 2, flags.migStrategy: is to be none, single or mixed"),
        (
            "flags:\n  plugin:\n    deviceListStrategy: [envvar, magic]\n",
            "line 3, flags.plugin.deviceListStrategy: is to be cdi-cri",
        ),
        (
            "sharing:\n  timeSlicing:\n    resources:\n    - name: gpu\n      replicas: 1\n",
            "line 5, sharing.timeSlicing.resources[0].replicas: is to be 2",
        ),
        ("sharing:\n  timeSlicing:\n    resources:\n    - name: gpu\n      replicas: -3\n", "is to be a whole number"),
        (
            "sharing:\n  timeSlicing:\n    resources:\n    - name: gpu\n",
            "line 4, sharing.timeSlicing.resources[0]: says no number of replicas",
        ),
        (
            "sharing:\n  timeSlicing:\n    resources:\n    - {name: gpu, replicas: 2}\n    - {name: nvidia.com/gpu, replicas: 3}\n",
            "line 5, sharing.timeSlicing.resources[1]: nvidia.com/gpu is replicated twice",
        ),
        (
            "sharing:\n  timeSlicing:\n    resources:\n    - {name: gpu, replicas: 2, devices: [zero]}\n",
            "devices[0]: is to be an index",
        ),
        ("sharing:\n  mps:\n    resources: [{name: gpu, replicas: 2}]\n", "line 2, sharing.mps: is not offered"),
        (
            "resources:\n  gpus:\n  - {pattern: '*', name: Big}\n",
            "line 3, resources.gpus[0].name: \"Big\" is no resource name",
        ),
        ("resources:\n  gpus:\n  - {pattern: '*', name: amd.com/gpu}\n", "is of another domain"),
        ("resources:\n  gpus:\n  - {pattern: '*'}\n", "is to have a pattern and a name"),
        ("imex: {channelIDs: [1]}\n", "line 1, imex.channelIDs: is to be [] or [0]"),
        ("thruway:\n  exlude: [0]\n", "line 2, thruway.exlude: is not known; there are include, exclude, health"),
        ("thruway: {health: {hold: soon}}\n", "is to be a time such as 10s"),
        ("- a\n- b\n", "is to be a mapping"),
        ("flags: [1]\n", "line 1, flags: is to be a mapping"),
        ("a: [1\n", "line "),
        ("version: v1\nversion: v1\n", "line 2"),
    ] {
        let found = bad(text);
        assert!(found.contains(wanted), "{text}: {found}");
    }
    let long = format!("resources:\n  gpus:\n  - {{pattern: '*', name: {}}}\n", "a".repeat(53));
    assert!(bad(&long).contains("has 64 characters, and the kubelet takes 63"), "{}", bad(&long));
    // NVIDIA's plugin reads past what it does not know, and so do we, aloud
    assert_eq!(
        parse("flags: {magic: 1}\nmore: {}\n").notes,
        ["more is not known and is passed over", "flags.magic is not known and is passed over"]
    );
}

#[test]
fn flags_stand_over_the_environment_and_both_over_the_file() {
    let file = "flags: {migStrategy: single, failOnInitError: true}\n";
    let env = |name: &str| match name {
        "MIG_STRATEGY" => Some("mixed".to_owned()),
        "DEVICE_LIST_STRATEGY" => Some("envvar,volume-mounts".to_owned()),
        "FAIL_ON_INIT_ERROR" => Some(String::new()),
        "PASS_DEVICE_SPECS" => Some("1".to_owned()),
        "DP_DISABLE_HEALTHCHECKS" => Some("48, xyz".to_owned()),
        "THRUWAY_EXCLUDE" => Some("1,26:00.0".to_owned()),
        _ => None,
    };
    let flags = |list: &[(&str, &str)]| list.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect::<Vec<_>>();
    let config =
        parse(file).with(&flags(&[("mig-strategy", "single"), ("mig-strategy", "none")]), &env).expect("right");
    assert_eq!(config.mig, MigStrategy::None, "the flag, and of two the last");
    assert!(config.fail_on_init_error, "an empty variable says nothing");
    assert_eq!(config.list, [ListStrategy::Envvar, ListStrategy::VolumeMounts].into());
    assert!(config.pass_device_specs);
    assert_eq!((config.health.ignore.as_slice(), config.notes.len()), ([48].as_slice(), 1));
    assert_eq!(config.exclude.len(), 2);
    assert_eq!(parse(file).with(&[], &env).map(|config| config.mig), Ok(MigStrategy::Mixed));
    assert_eq!(parse(file).with(&[], &|_| None).map(|config| config.mig), Ok(MigStrategy::Single));
    let wrong = parse(file).with(&flags(&[("mig-strategy", "all")]), &|_| None).expect_err("wrong").to_string();
    assert_eq!(wrong, "--mig-strategy: is to be none, single or mixed");
    let wrong = parse(file).with(&[], &|name| (name == "GDS_ENABLED").then(|| "yes".to_owned())).expect_err("wrong");
    assert_eq!(wrong.to_string(), "GDS_ENABLED: is to be true or false");
    assert!(parse(file).with(&flags(&[("magic", "1")]), &|_| None).is_err());
}

#[test]
fn patterns() {
    for (pattern, text, wanted) in [
        ("*", "", true),
        ("*", "a", true),
        ("a*c", "abc", true),
        ("a*c", "ac", true),
        ("a*c", "acb", false),
        ("*80GB*", "NVIDIA H100 80GB HBM3", true),
        ("a*b*a", "aba", true),
        ("a*b*a", "ab", false),
        ("ab*ba", "aba", false),
        ("abc", "abc", true),
        ("abc", "abcd", false),
        ("**", "x", true),
        ("*x*x*", "x", false),
    ] {
        assert_eq!(matches(pattern, text), wanted, "{pattern} {text}");
    }
}

#[test]
fn durations_as_go_writes_them() {
    for (text, wanted) in [
        ("60s", Some(60_000)),
        ("1h30m", Some(5_400_000)),
        ("500ms", Some(500)),
        ("1.5s", Some(1_500)),
        ("0", Some(0)),
        ("", None),
        ("5", None),
        ("s", None),
        ("5x", None),
        ("99999999999h", None),
        ("-1s", None),
    ] {
        assert_eq!(read::go_duration(text), wanted, "{text}");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(128))]
    #[test]
    fn no_text_panics(cut in 0..WHOLE.len(), junk in ".{0,12}", at in 0..WHOLE.len()) {
        let _ = Config::parse(&WHOLE[..cut]);
        let mut text = WHOLE.to_owned();
        text.insert_str(at, &junk);
        let _ = Config::parse(&text);
    }
}

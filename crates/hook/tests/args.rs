//! The command line: our own form, NVIDIA's names, and what a newer spec may say.

use hook::args::{Command, parse};
use hook::{Link, Options};

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn options(line: &str) -> Options {
    match parse(&words(line)).unwrap_or_else(|error| panic!("{line}: {error}")).command {
        Command::Carry(options) => options,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn our_own_form() {
    let line = "thruway-hook create-container --link a::/b --link=../c::/d/e --folder /x --folder=/y --driver 580.159.04 \
                --cuda 13.0 --compat-root /opt/compat --guard-params --application-profile";
    let link = |target: &str, link: &str| Link { target: target.into(), link: link.into(), dangling: false };
    assert_eq!(
        options(line),
        Options {
            links: vec![link("a", "/b"), link("../c", "/d/e")],
            folders: vec!["/x".into(), "/y".into()],
            driver: Some("580.159.04".into()),
            cuda: Some((13, 0)),
            compat_root: "/opt/compat".into(),
            guard_params: true,
            application_profile: true,
        }
    );
}

#[test]
fn nvidias_names_are_the_same_work() {
    let cudacompat = Options { driver: Some("580.1".into()), cuda: Some((13, 0)), ..Options::default() };
    for (line, wanted) in [
        (
            "nvidia-cdi-hook create-symlinks --link a::/b",
            Options {
                links: vec![Link { target: "a".into(), link: "/b".into(), dangling: true }],
                ..Options::default()
            },
        ),
        (
            "nvidia-ctk hook update-ldcache --folder /x --ldconfig-path /sbin/ldconfig",
            Options { folders: vec!["/x".into()], ..Options::default() },
        ),
        (
            "/usr/bin/nvidia-ctk --debug hook update-ldcache --folder /x",
            Options { folders: vec!["/x".into()], ..Options::default() },
        ),
        ("nvidia-cdi-hook enable-cuda-compat --host-driver-version=580.1 --host-cuda-version=13.0", cudacompat.clone()),
        (
            "thruway-hook enable-cuda-compat --host-driver-version=580.1 --host-cuda-version 13.0 --cuda-compat-container-root=",
            cudacompat,
        ),
        ("nvidia-cdi-hook disable-device-node-modification", Options { guard_params: true, ..Options::default() }),
        ("nvidia-cdi-hook update-application-profile", Options { application_profile: true, ..Options::default() }),
        ("nvidia-cdi-hook enable-cuda-compat --host-driver-version=", Options::default()),
    ] {
        assert_eq!(options(line), wanted, "{line}");
    }
}

#[test]
fn what_is_not_known_stops_no_container() {
    for line in
        ["thruway-hook create-nvlink", "nvidia-cdi-hook chmod --mode 755 --path /dev/dri", "nvidia-ctk hook", "x y z"]
    {
        let parsed = parse(&words(line)).expect("no error");
        assert!(matches!(parsed.command, Command::Nothing(_)), "{line}: {parsed:?}");
    }
    let parsed =
        parse(&words("thruway-hook create-container --new value --newer=1 --folder /x word")).expect("no error");
    assert_eq!(parsed.command, Command::Carry(Options { folders: vec!["/x".into()], ..Options::default() }));
    assert_eq!(parsed.warnings.len(), 3, "{parsed:?}");
}

#[test]
fn what_is_known_and_wrong_is_an_error() {
    for line in [
        "--link a",
        "--link ::/b",
        "--link a::b",
        "--link",
        "--folder x",
        "--folder",
        "--driver new",
        "--driver 580",
        "--cuda 13",
        "--cuda x.y",
        "--compat-root compat",
    ] {
        let error = parse(&words(&format!("thruway-hook create-container {line}"))).expect_err(line);
        assert!(error.to_string().contains("--help"), "{error}");
    }
    assert_eq!(parse(&words("thruway-hook --version")).expect("is known").command, Command::Version);
    assert_eq!(parse(&words("thruway-hook")).expect("is known").command, Command::Help);
    assert_eq!(parse(&words("thruway-hook create-container --help")).expect("is known").command, Command::Help);
}

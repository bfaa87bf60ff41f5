//! The wall clock jumps (a machine that slept, a first NTP answer, a hand at `date`): health is judged by a clock that does not.
//! libfaketime stands between the agent and the clock alone; nobody else's time changes.

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use crate::faults::{falls, recovers};
use crate::world::{QUICK, World, run};

const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

#[test]
fn the_wall_clock_jumps_and_health_is_judged_as_before() {
    if !Path::new(LIBRARY).exists() {
        println!("SKIP: {LIBRARY} is not here (Debian: libfaketime)");
        return;
    }
    run(async {
        let Some(mut world) = World::new("h100x8", QUICK, &[]).await else { return };
        let clock = world.config().with_file_name("clock");
        let jump = |by: &str| {
            let new = clock.with_extension("new");
            std::fs::write(&new, by).expect("writes");
            std::fs::rename(new, &clock).expect("renames");
        };
        jump("+0");
        let file = clock.display().to_string();
        let set = [
            ("LD_PRELOAD", LIBRARY),
            ("FAKETIME_TIMESTAMP_FILE", file.as_str()),
            ("FAKETIME_NO_CACHE", "1"),
            // a jump is of the wall clock: CLOCK_MONOTONIC and CLOCK_BOOTTIME have none (clock_gettime(2))
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        world.start_with(&set);
        world.well().await;
        tokio::time::sleep(Duration::from_millis(600)).await;
        for by in ["+400d", "-4000d", "+1d", "-1d"] {
            jump(by);
            world.control("[[gpus]]\nindex = 3\nxids = [79]\nlost = true\n");
            falls(&world, &format!("the clock went {by}, then a card fell off"), 7).await;
            // while a card is away the clock goes the other way
            jump("+0");
            recovers(&world, &format!("back from {by}")).await;
        }
        let said = world.said();
        assert!(!said.contains("panicked"), "{said}");
        // the library keeps what it shares between processes where POSIX shared memory lies
        let id = world.agent.as_ref().expect("runs").id();
        world.end(Signal::TERM).await;
        for name in [format!("faketime_shm_{id}"), format!("sem.faketime_sem_{id}")] {
            let _ = std::fs::remove_file(Path::new("/dev/shm").join(name));
        }
    });
}

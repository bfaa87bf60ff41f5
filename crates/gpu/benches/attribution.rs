//! Whose 1,000 processes are: the first look, which reads all, and a later one. Beside it the floor: 1,000 cgroup files read by
//! plain reads. Wanted: the first look below 50 ms. `cargo bench -p thruway-gpu --bench attribution`.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    reason = "a bench starts processes"
)]

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gpu::attribution::Attributor;
use machine::{Machine, Root};

const COUNT: usize = 1000;
const ROUNDS: usize = 20;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn timed(mut work: impl FnMut()) -> Duration {
    let one = |_| {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    median((0..ROUNDS).map(one).collect())
}

fn told(title: &str, machine: &dyn Machine, root: &str, pids: &[u32]) {
    let floor = timed(|| {
        for pid in pids {
            std::hint::black_box(std::fs::read(format!("{root}/proc/{pid}/cgroup")).expect("is there"));
        }
    });
    let first = timed(|| drop(std::hint::black_box(Attributor::new().look(machine, pids))));
    let mut attributor = Attributor::new();
    attributor.look(machine, pids);
    let later = timed(|| drop(std::hint::black_box(attributor.look(machine, pids))));
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    println!(
        "{title}: {} processes, first look {:.1} ms, later looks {:.1} ms; their cgroup files alone, read plainly: {:.1} ms",
        pids.len(),
        ms(first),
        ms(later),
        ms(floor)
    );
}

struct Sleepers(Vec<Child>);

impl Drop for Sleepers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn main() {
    let sleep = || Command::new("sleep").arg("600").stdin(Stdio::null()).spawn();
    let Ok(children) = (0..COUNT).map(|_| sleep()).collect::<Result<Vec<_>, _>>() else {
        return println!("SKIP: {COUNT} processes cannot be started here");
    };
    let sleepers = Sleepers(children);
    let pids: Vec<u32> = sleepers.0.iter().map(Child::id).collect();
    told("this machine", &Root::live().expect("the root"), "", &pids);
    drop(sleepers);

    // four processes a container, each container with a file of docker's to be found and read
    let folder = tempfile::tempdir().expect("a directory");
    let write = |path: String, text: String| {
        let at = folder.path().join(path);
        std::fs::create_dir_all(at.parent().expect("below a directory")).expect("makes it");
        std::fs::write(at, text).expect("writes");
    };
    let labels = format!("{:?}", "x".repeat(6000));
    let pids: Vec<u32> = (5000..).take(COUNT).collect();
    for pid in &pids {
        let id = format!("{:064x}", pid / 4);
        write(format!("proc/{pid}/stat"), format!("{pid} (ffmpeg) S 1 {}{pid} 9\n", "0 ".repeat(17)));
        write(format!("proc/{pid}/cmdline"), "/usr/lib/jellyfin-ffmpeg/ffmpeg\0-i\0film.mkv\0".into());
        write(format!("proc/{pid}/status"), format!("Name:\tffmpeg\nPPid:\t1\nUid:\t0\t0\t0\t0\nNSpid:\t{pid}\t7\n"));
        write(format!("proc/{pid}/cgroup"), format!("0::/system.slice/docker-{id}.scope\n"));
        write(
            format!("var/lib/docker/containers/{id}/config.v2.json"),
            format!(
                r#"{{"ID":"{id}","Name":"/c{pid}","Config":{{"Image":"jellyfin/jellyfin","Labels":{{"x":{labels}}}}}}}"#
            ),
        );
    }
    let machine = Root::tree(folder.path()).expect("a tree");
    told("a machine laid out in files", &machine, &folder.path().display().to_string(), &pids);
}

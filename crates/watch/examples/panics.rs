//! For a test of the terminal: a view of a machine on which looking fails as no machine may make it fail.
#![allow(clippy::panic, clippy::print_stdout, reason = "it is what is tested")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use machine::{Answer, Kind, Machine, Memory, Question, Stat};
use model::Seen;

struct Broken(Memory, AtomicU32);

impl Machine for Broken {
    fn kind(&self) -> Kind {
        self.0.kind()
    }
    fn name(&self) -> String {
        self.0.name()
    }
    fn read(&self, path: &str) -> Seen<Vec<u8>> {
        self.0.read(path)
    }
    fn image(&self, path: &str) -> Seen<Vec<u8>> {
        self.0.image(path)
    }
    fn list(&self, path: &str) -> Seen<Vec<String>> {
        self.0.list(path)
    }
    fn stat(&self, path: &str) -> Seen<Stat> {
        self.0.stat(path)
    }
    fn lstat(&self, path: &str) -> Seen<Stat> {
        self.0.lstat(path)
    }
    fn link(&self, path: &str) -> Seen<String> {
        self.0.link(path)
    }
    fn ask(&self, question: &Question) -> Seen<Answer> {
        if self.1.fetch_add(1, Ordering::Relaxed) > 3 {
            panic!("on purpose");
        }
        self.0.ask(question)
    }
}

fn main() {
    let every = Duration::from_millis(300);
    let options = watch::top::Options { name: "broken".into(), every, colour: false, unicode: true, card: None };
    let machine = Broken(Memory::new("broken"), AtomicU32::new(0));
    let end = watch::top::run(&machine, &options);
    println!("ended: {}", end.is_ok());
}

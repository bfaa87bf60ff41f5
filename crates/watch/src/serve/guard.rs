//! Bounds of connections: how many, how long one may take to ask, to be told and to do nothing. The one that has least claim
//! is dropped for a new one, so that connections which never ask lock nobody out.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::AbortHandle;

/// Connections at once.
pub const MOST: usize = 512;
/// From a request's first byte, or from the connection's beginning, to the end of its head.
pub const HEAD: Duration = Duration::from_secs(10);
/// Between two requests; Prometheus comes each 15 s or each minute.
pub const IDLE: Duration = Duration::from_secs(90);
/// From the first byte that the client does not take to the last that it does.
pub const TAKE: Duration = Duration::from_secs(20);

/// What a connection is doing.
pub struct State {
    since: Cell<Instant>,
    first: Cell<Option<Instant>>,
    busy: Cell<bool>,
    served: Cell<bool>,
    stuck: Cell<Option<Instant>>,
}

impl State {
    fn new() -> Self {
        State {
            since: Cell::new(Instant::now()),
            first: Cell::new(None),
            busy: Cell::new(false),
            served: Cell::new(false),
            stuck: Cell::new(None),
        }
    }

    /// A request's head is whole.
    pub fn asked(&self) {
        self.busy.set(true);
        self.first.set(None);
    }

    /// Its answer is made.
    pub fn answered(&self) {
        self.busy.set(false);
        self.served.set(true);
        self.since.set(Instant::now());
    }

    /// Nobody waits for anything of it.
    fn overdue(&self, now: Instant) -> bool {
        let over = |from: Instant, limit| now.saturating_duration_since(from) > limit;
        if let Some(stuck) = self.stuck.get() {
            return over(stuck, TAKE);
        }
        match (self.busy.get(), self.first.get(), self.served.get()) {
            (true, ..) => false,
            (_, Some(first), _) => over(first, HEAD),
            (_, None, true) => over(self.since.get(), IDLE),
            (_, None, false) => over(self.since.get(), HEAD),
        }
    }
}

#[derive(Default)]
pub struct Table {
    next: Cell<u64>,
    all: RefCell<BTreeMap<u64, (Rc<State>, AbortHandle)>>,
    pub dropped: Cell<u64>,
}

/// A connection's place; it is free again when this is dropped.
pub struct Place {
    id: u64,
    table: Rc<Table>,
    pub state: Rc<State>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.table.all.borrow_mut().remove(&self.id);
    }
}

impl Table {
    /// A place for a new connection; where all are taken, the one with least claim goes.
    pub fn place(self: &Rc<Self>) -> Place {
        let full = self.all.borrow().len() >= MOST;
        if full {
            self.drop_one();
        }
        let id = self.next.get();
        self.next.set(id + 1);
        Place { id, table: Rc::clone(self), state: Rc::new(State::new()) }
    }

    /// Whose place it is.
    pub fn taken(&self, id: u64, state: &Rc<State>, abort: AbortHandle) {
        self.all.borrow_mut().insert(id, (Rc::clone(state), abort));
    }

    pub fn len(&self) -> usize {
        self.all.borrow().len()
    }

    /// None is being answered.
    pub fn quiet(&self) -> bool {
        self.all.borrow().values().all(|(state, _)| !state.busy.get() && state.stuck.get().is_none())
    }

    /// One that never asked before one that did, one that does nothing before one that is answered, the oldest first.
    pub fn drop_one(&self) {
        let least = {
            let all = self.all.borrow();
            let claim = |state: &State| (state.busy.get(), state.served.get(), state.since.get());
            all.iter().min_by_key(|(_, (state, _))| claim(state)).map(|(id, (_, abort))| (*id, abort.clone()))
        };
        if let Some((id, abort)) = least {
            self.all.borrow_mut().remove(&id);
            self.dropped.set(self.dropped.get() + 1);
            abort.abort();
        }
    }

    /// Drops what is overdue.
    pub fn sweep(&self) {
        let now = Instant::now();
        let late: Vec<AbortHandle> = {
            let all = self.all.borrow();
            all.values().filter(|(state, _)| state.overdue(now)).map(|(_, abort)| abort.clone()).collect()
        };
        self.dropped.set(self.dropped.get() + late.len() as u64);
        late.iter().for_each(AbortHandle::abort);
    }
}

impl Place {
    pub fn id(&self) -> u64 {
        self.id
    }
}

/// A stream that tells its state what it does.
pub struct Guarded<S> {
    pub stream: S,
    pub state: Rc<State>,
}

impl<S> Guarded<S> {
    fn wrote<T>(&self, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_pending() && self.state.stuck.get().is_none() {
            self.state.stuck.set(Some(Instant::now()));
        }
        poll
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let poll = Pin::new(&mut self.stream).poll_read(cx, buf);
        let state = &self.state;
        if buf.filled().len() > before && !state.busy.get() && state.first.get().is_none() {
            state.first.set(Some(Instant::now()));
        }
        poll
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_flush(cx);
        if poll.is_ready() {
            self.state.stuck.set(None);
        }
        poll
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wait_has_its_end() {
        let state = State::new();
        let after = |seconds| Instant::now() + Duration::from_secs(seconds);
        assert!(!state.overdue(after(9)) && state.overdue(after(11)), "one that never asks");
        state.first.set(Some(after(100)));
        assert!(!state.overdue(after(109)) && state.overdue(after(111)), "one whose head never ends");
        state.asked();
        assert!(!state.overdue(after(1000)), "one that is waiting for the driver has its own limit");
        state.answered();
        assert!(!state.overdue(after(80)) && state.overdue(after(92)), "one between two requests");
        state.stuck.set(Some(Instant::now()));
        assert!(!state.overdue(after(19)) && state.overdue(after(21)), "one that does not read");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn who_never_asked_goes_first() {
        let table = Rc::<Table>::default();
        let mut places = Vec::new();
        for n in 0..MOST {
            let place = table.place();
            if n < 3 {
                place.state.asked();
                place.state.answered();
            }
            table.taken(place.id(), &place.state, tokio::spawn(std::future::pending::<()>()).abort_handle());
            places.push(place);
        }
        assert_eq!((table.len(), table.dropped.get()), (MOST, 0));
        let _new = table.place();
        let gone = places.iter().find(|place| !table.all.borrow().contains_key(&place.id)).map(Place::id);
        assert_eq!((gone, table.dropped.get()), (Some(3), 1));
    }
}

//! One life of a simulated process: a thread with a loop of its own. It ends as a process does: every task and every
//! connection of it is gone at once.

use std::io;
use std::thread::JoinHandle;

use tokio::sync::oneshot;

pub(crate) struct Life {
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Life {
    /// Runs `begin` there and waits until it is done; what it spawned goes on.
    pub(crate) async fn start<B, F>(begin: B) -> io::Result<Life>
    where
        B: FnOnce() -> F + Send + 'static,
        F: Future<Output = io::Result<()>>,
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (end, ended) = oneshot::channel();
        let (tell, told) = oneshot::channel();
        let thread = std::thread::Builder::new().name("simkube".into()).spawn(move || {
            runtime.block_on(async {
                let done = begin().await;
                let failed = done.is_err();
                let _ = tell.send(done);
                if !failed {
                    let _ = ended.await;
                }
            });
        })?;
        let life = Life { end: Some(end), thread: Some(thread) };
        told.await.map_err(|_| io::Error::other("it ended as it began"))??;
        Ok(life)
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

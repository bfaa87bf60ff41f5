//! A gRPC channel over a unix socket.

use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};

/// Connects at once and says why it could not. `patience` bounds the connection, and each call made over it.
///
/// # Errors
/// No socket there, nobody who listens, or no answer in time.
pub async fn connect(path: PathBuf, patience: Duration) -> Result<Channel, tonic::transport::Error> {
    // The authority must be a legal one; nobody resolves it.
    Endpoint::from_static("http://localhost")
        .connect_timeout(patience)
        .timeout(patience)
        .connect_with_connector(Dial(path))
        .await
}

#[derive(Clone)]
struct Dial(PathBuf);

impl tower_service::Service<Uri> for Dial {
    type Response = TokioIo<UnixStream>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let path = self.0.clone();
        Box::pin(async move { Ok(TokioIo::new(UnixStream::connect(path).await?)) })
    }
}

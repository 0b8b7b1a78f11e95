//! The endpoint: HTTP on loopback around the objects.
//!
//! Invariants: signatures are checked; the server ends with its handle; a request that is to be cut off gets no answer at all.

use std::{net::SocketAddr, sync::Arc};

use hyper::{Request, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use reprise_engine::store::s3::S3Settings;
use s3s::{HttpError, auth::SimpleAuth, service::S3ServiceBuilder};
use tokio::{net::TcpListener, runtime::Runtime};

use super::objects::{CUT, Objects};

/// A bucket that runs; it ends when this is dropped.
pub struct Bucket {
    /// What it holds, and what goes wrong.
    pub objects: Arc<Objects>,
    address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Bucket {
    /// Starts one on a free port, with nothing in it.
    pub fn start() -> Bucket {
        Bucket::at("127.0.0.1:0".parse().unwrap())
    }

    /// Starts one on `address`.
    pub fn at(address: SocketAddr) -> Bucket {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).thread_name("test-bucket").enable_all().build().unwrap();
        let objects = Arc::new(Objects::default());
        let listener = runtime.block_on(TcpListener::bind(address)).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(accept(listener, Arc::clone(&objects)));
        Bucket { objects, address, runtime: Some(runtime) }
    }

    /// Where it listens.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How to reach it, below `prefix`.
    pub fn settings(&self, prefix: &str) -> S3Settings {
        let url = format!("s3://{NAME}/{prefix}");
        let settings = S3Settings::parse(&url, Some(self.endpoint()), None).unwrap();
        S3Settings { credentials: Some((KEY.to_owned(), SECRET.to_owned())), ..settings }
    }

    /// The environment of a process that uses it.
    pub fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("AWS_ACCESS_KEY_ID", KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
            ("AWS_ENDPOINT_URL_S3", self.endpoint()),
        ]
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: TcpListener, objects: Arc<Objects>) {
    let mut service = S3ServiceBuilder::new(super::objects::Served(Arc::clone(&objects)));
    service.set_auth(SimpleAuth::from_single(KEY, SECRET));
    let service = service.build();
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        socket.set_nodelay(true).ok();
        let (service, objects) = (service.clone(), Arc::clone(&objects));
        let answer = service_fn(move |request: Request<Incoming>| {
            let (service, objects) = (service.clone(), Arc::clone(&objects));
            async move {
                let answer = service.call(request.map(s3s::Body::from)).await?;
                if answer.headers().contains_key(CUT) {
                    return Err(HttpError::new("cut off".into()));
                }
                objects.answered(answer.status());
                Ok(answer)
            }
        });
        tokio::spawn(async move {
            let mut connection = hyper::server::conn::http1::Builder::new();
            connection.timer(TokioTimer::new());
            // An error here is a fault that was asked for, or a client that went away.
            connection.serve_connection(TokioIo::new(socket), answer).await.ok();
        });
    }
}

/// The one bucket.
pub const NAME: &str = "reprise";
const KEY: &str = "test-key";
const SECRET: &str = "test-secret";

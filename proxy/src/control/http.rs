//! `/metrics`, `/livez` and `/readyz`, for those who watch from outside.

use crate::control::Control;
use crate::control::metrics::{Format, Picture};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use pgring_logic::admin::health::readiness;
use pgring_logic::mail::Mail;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Connections at once; more wait to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// How long a request's head may take to come.
const HEAD_MAX: Duration = Duration::from_secs(5);
/// How long a connection may last; it carries one request.
const CONNECTION_MAX: Duration = Duration::from_secs(30);
/// How long to wait when no connection can be accepted (no descriptors left, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const TEXT: &str = "text/plain; charset=utf-8";

/// Listens on `host:port`.
pub(super) async fn listen(address: &str) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|error| format!("http = \"{address}\": {error}"))
}

/// Answers requests for as long as the process lives.
pub(super) async fn serve(listener: TcpListener, control: Rc<Control>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let talk = talk(stream, Rc::clone(&control));
                tokio::task::spawn_local(async move {
                    // However it ends, the next request comes on another connection.
                    drop(tokio::time::timeout(CONNECTION_MAX, talk).await);
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "http: no connection accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn talk(stream: TcpStream, control: Rc<Control>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let control = Rc::clone(&control);
        async move { Ok::<_, Infallible>(respond(&control, &request).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_MAX).keep_alive(false);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "http");
    }
}

async fn respond(control: &Control, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/livez" => plain(StatusCode::OK, "ok"),
        "/readyz" => ready(control).await,
        "/metrics" => {
            let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
            metrics(control, Format::accepted(accept.unwrap_or_default())).await
        }
        _ => plain(StatusCode::NOT_FOUND, "/metrics, /livez or /readyz"),
    }
}

async fn ready(control: &Control) -> Response<Full<Bytes>> {
    let reports = control.ask(Mail::Ask).await;
    let phase = control.state.borrow().phase;
    match readiness(&reports, control.lanes.count, phase) {
        Ok(()) => plain(StatusCode::OK, "ok"),
        Err(reason) => plain(StatusCode::SERVICE_UNAVAILABLE, &reason),
    }
}

async fn metrics(control: &Control, format: Format) -> Response<Full<Bytes>> {
    let reports = control.ask(Mail::Ask).await;
    match control.look(&reports, Picture::new).encode(format) {
        Ok(bytes) => response(StatusCode::OK, format.content_type(), bytes),
        Err(error) => {
            tracing::error!(%error, "metrics");
            plain(StatusCode::INTERNAL_SERVER_ERROR, "metrics cannot be written")
        }
    }
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    response(status, TEXT, format!("{text}\n").into_bytes())
}

fn response(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

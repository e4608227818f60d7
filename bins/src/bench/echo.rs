//! The yardstick: a bare gRPC call, answered from memory by one process with what was sent. What it costs, every call of the
//! service costs too.

use super::load::{Loaded, closed_loop, positive};
use super::report::{Line, Report};
use super::send::PAYLOAD;
use crate::processes::replica::{tie, tie_to_parent};
use crate::processes::{Broken, resources};
use clap::Args;
use rustix::process::Pid;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::{ExitCode, Stdio};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{NamedService, UnaryService};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// The first argument with which this program is the server of this measurement.
const ECHO_SERVER: &str = "echo-server";
const PATH: &str = "/chat.bench.Echo/Echo";
/// No answer is longer.
const LONGEST: i64 = 1 << 20;
const WARM_UP: Duration = Duration::from_millis(500);
/// Much longer than starting a process takes.
const WAIT: Duration = Duration::from_secs(20);

#[derive(Debug, Args)]
pub(super) struct Flags {
    /// So many clients at the same time, a connection each, one call at a time each
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,256", value_parser = positive, value_name = "N,…")]
    clients: Vec<usize>,
    /// Answers have so many bytes; unless told, they are what was sent
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=LONGEST), value_name = "BYTES")]
    answer: Option<u32>,
    /// For so many seconds each
    #[arg(long, default_value_t = 5, value_parser = positive, value_name = "S")]
    secs: usize,
}

pub(super) async fn run(report: &mut Report, flags: &Flags) -> Result<(), Broken> {
    let (child, pid, address) = start().await?;
    for clients in &flags.clients {
        let connections = connect(address, *clients).await?;
        load(&connections, flags.answer, WARM_UP).await?;
        let once = async || {
            let before = resources::cpu_seconds(pid);
            let loaded = load(&connections, flags.answer, Duration::from_secs(flags.secs as u64)).await?;
            let cpu = resources::cpu_seconds(pid).zip(before).map(|(after, before)| after - before);
            // Another yardstick, by another name.
            let name = if flags.answer.is_some() { "echo-answer" } else { "echo" };
            let mut line = Line::new(name, *clients).timed(&loaded.times);
            line.per_second = Some(loaded.per_second());
            line.cpu_per_1000 = cpu.map(|cpu| cpu / loaded.times.count().max(1) as f64 * 1000.0);
            Ok(line)
        };
        report.measure(once).await?;
    }
    drop(child);
    Ok(())
}

/// Starts the server as a child process, which ends when it is dropped.
async fn start() -> Result<(Child, Pid, SocketAddr), Broken> {
    let broken = |error: std::io::Error| Broken(format!("the echo server cannot be started: {error}"));
    let program = std::env::current_exe().map_err(broken)?;
    let (name, value) = tie();
    let mut command = Command::new(program);
    command.arg(ECHO_SERVER).env(name, value).process_group(0).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(broken)?;
    let silent = || Broken("the echo server does not say where it listens".into());
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw).ok_or_else(silent)?;
    let mut lines = BufReader::new(child.stdout.take().ok_or_else(silent)?).lines();
    let line = tokio::time::timeout(WAIT, lines.next_line()).await.map_err(|_| silent())?.map_err(broken)?;
    let address = line.and_then(|line| line.parse().ok()).ok_or_else(silent)?;
    Ok((child, pid, address))
}

async fn connect(address: SocketAddr, clients: usize) -> Result<Vec<Grpc<Channel>>, Broken> {
    let broken = |error: tonic::transport::Error| Broken(format!("no connection to the echo server: {error}"));
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(broken)?;
    let mut connections = Vec::new();
    for _ in 0..clients {
        connections.push(Grpc::new(endpoint.connect().await.map_err(broken)?));
    }
    Ok(connections)
}

async fn load(connections: &[Grpc<Channel>], answer: Option<u32>, time: Duration) -> Result<Loaded, Broken> {
    let sound = Sound { payload: vec![b'x'; PAYLOAD], answer: answer.unwrap_or_default() };
    let length = answer.map_or(PAYLOAD, |bytes| bytes as usize);
    let caller = |connection: &Grpc<Channel>| {
        let (connection, sound) = (connection.clone(), sound.clone());
        move || call(connection.clone(), sound.clone(), length)
    };
    closed_loop(connections.iter().map(caller), time).await
}

async fn call(mut connection: Grpc<Channel>, sound: Sound, length: usize) -> Result<(), Broken> {
    let broken = |what: String| Broken(format!("the echo server does not answer: {what}"));
    connection.ready().await.map_err(|error| broken(error.to_string()))?;
    let codec: ProstCodec<Sound, Sound> = ProstCodec::default();
    let answer = connection.unary(Request::new(sound), PathAndQuery::from_static(PATH), codec).await;
    match answer {
        Ok(answer) if answer.get_ref().payload.len() == length => Ok(()),
        Ok(_) => Err(broken("another length comes back".into())),
        Err(status) => Err(broken(status.to_string())),
    }
}

/// What is called, and comes back.
#[derive(Clone, PartialEq, prost::Message)]
struct Sound {
    #[prost(bytes = "vec", tag = "1")]
    payload: Vec<u8>,
    /// How long the answer is to be; 0: it is what was sent.
    #[prost(uint32, tag = "2")]
    answer: u32,
}

/// Runs this process as the echo server to its end, if it was started as that.
pub(super) fn run_if_server() -> Option<ExitCode> {
    std::env::args_os().nth(1).is_some_and(|first| first == ECHO_SERVER).then(server)
}

fn server() -> ExitCode {
    if !tie_to_parent() {
        return ExitCode::FAILURE;
    }
    match tokio::runtime::Builder::new_multi_thread().enable_all().build().map(|runtime| runtime.block_on(serve())) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            eprintln!("chat-bench: the echo server failed: {error}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("chat-bench: no threads to run on: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> Result<(), Box<dyn std::error::Error>> {
    let incoming = TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?.with_nodelay(Some(true));
    println!("{}", incoming.local_addr()?);
    // With a replica's settings for its clients, on the threads that tokio has unless it is told otherwise.
    let server = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(1)))
        .http2_keepalive_timeout(Some(Duration::from_secs(2)))
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20)
        .max_concurrent_streams(4096);
    { server }.add_service(Echo).serve_with_incoming(incoming).await?;
    Ok(())
}

#[derive(Clone, Debug)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "chat.bench.Echo";
}

impl UnaryService<Sound> for Echo {
    type Response = Sound;
    type Future = BoxFuture<Response<Sound>, Status>;

    fn call(&mut self, request: Request<Sound>) -> Self::Future {
        let Sound { payload, answer } = request.into_inner();
        let payload = match i64::from(answer).min(LONGEST) {
            0 => payload,
            answer => vec![b'x'; answer as usize],
        };
        Box::pin(async { Ok(Response::new(Sound { payload, answer: 0 })) })
    }
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async {
            if request.uri().path() != PATH {
                return Ok(Status::unimplemented("there is only an echo here").into_http());
            }
            let codec: ProstCodec<Sound, Sound> = ProstCodec::default();
            Ok(tonic::server::Grpc::new(codec).unary(Echo, request).await)
        })
    }
}

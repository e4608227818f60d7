//! `chatd`: runs one replica until it is told to stop.

mod flags;
mod narrator;

use crate::daemon::flags::Flags;
use crate::usage;
use chat_replica::driver::Ended;
use chat_replica::failpoint;
use chat_replica::handle::Handle;
use chat_replica::server::{EventLoops, Server, StartError};
use chat_replica::transport::Tcp;
use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};

/// Refused: the disk, the address, or another process is in the way.
const REFUSED: u8 = 1;
/// The command line or the configuration file makes no sense.
const USAGE: u8 = 2;

/// Runs `chatd` with these arguments, the program's name first, to the end of the process.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    main_beside(arguments, Box::new(drop))
}

/// Is given the replica once it has started, on its runtime, and must not block.
pub(crate) type Beside = Box<dyn FnOnce(Handle)>;

/// `chatd` with something that uses the replica from within its process: only our own measurements have that.
pub(crate) fn main_beside(arguments: impl IntoIterator<Item = OsString>, beside: Beside) -> ExitCode {
    let flags: Flags = match usage::parse("chatd", arguments) {
        Ok(flags) => flags,
        Err(code) => return code,
    };
    let config = match flags.into_config() {
        Ok(config) => config,
        Err(wrong) => return fail(USAGE, &wrong),
    };
    abort_on_panic();
    let _armed = failpoint::arm();
    narrator::start_log();
    // For whatever is neither a client's nor the driver's: accepting, signals, scrubbing. What blocks there is given to other threads.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (runtime, loops) = match runtime.and_then(|runtime| Ok((runtime, EventLoops::threads()?))) {
        Ok(threads) => threads,
        Err(error) => return fail(REFUSED, &format!("no threads to run on: {error}")),
    };
    let code = runtime.block_on(run(config, loops, beside));
    // Connections that are still open must not keep the process: a replica that has left must refuse.
    runtime.shutdown_background();
    code
}

async fn run(config: chat_replica::options::Config, loops: EventLoops, beside: Beside) -> ExitCode {
    let id = config.id;
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
        return fail(REFUSED, "signals cannot be waited for");
    };
    let addresses = config.replicas.clone();
    let server = match Server::start_on(loops, config, Arc::new(Tcp)).await {
        Ok(server) => server,
        Err(error @ StartError::Config(_)) => return fail(USAGE, &error.to_string()),
        Err(error) => return fail(REFUSED, &error.to_string()),
    };
    say(&format!("ready: replica {id} at {}, start {}", server.address(), server.member().incarnation.count));
    beside(server.handle().clone());
    let narrator = tokio::spawn(narrator::narrate(id, addresses, server.handle().news()));
    let ended = tokio::select! {
        ended = server.ended() => ended,
        _ = terminate.recv() => leave(server, "SIGTERM", &mut terminate, &mut interrupt).await,
        _ = interrupt.recv() => leave(server, "SIGINT", &mut terminate, &mut interrupt).await,
    };
    narrator.abort();
    match ended {
        Ended::Left => {
            say("left the view; stopped");
            ExitCode::SUCCESS
        }
        Ended::Stopped => {
            say("stopped without leaving the view: nothing is lost, the others take it for a crash");
            ExitCode::SUCCESS
        }
        Ended::Failed(why) => fail(REFUSED, &format!("stopped: {why}")),
        Ended::RolledBack(why) => fail(
            REFUSED,
            &format!("stopped: {why}. Start it again: it joins as a new disk, and counts once it has caught up"),
        ),
    }
}

/// Leaves the view first. A second signal ends it at once.
async fn leave(
    server: Server,
    signal: &str,
    terminate: &mut tokio::signal::unix::Signal,
    interrupt: &mut tokio::signal::unix::Signal,
) -> Ended {
    say(&format!("{signal}: leaving the view"));
    tokio::select! {
        ended = server.leave() => ended,
        _ = terminate.recv() => Ended::Stopped,
        _ = interrupt.recv() => Ended::Stopped,
    }
}

/// Rule 8: a listener must not outlive what answers behind it.
fn abort_on_panic() {
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        told(panic);
        std::process::abort();
    }));
}

fn say(line: &str) {
    // Nobody reading is no reason to stop.
    let _ = writeln!(std::io::stderr(), "chatd: {line}");
}

fn fail(code: u8, why: &str) -> ExitCode {
    say(why);
    ExitCode::from(code)
}

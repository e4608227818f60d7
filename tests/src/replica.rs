//! One replica on a thread and a runtime of its own.

use crate::network::Dialler;
use chat_replica::driver::Ended;
use chat_replica::options::Config;
use chat_replica::server::Server;
use chat_replica::{handle::Handle, server::StartError};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

enum Order {
    Kill,
    Stop,
    /// Holds everything until the other end is dropped.
    Pause(std::sync::mpsc::Receiver<()>, oneshot::Sender<()>),
}

/// A running replica.
pub(crate) struct Running {
    pub handle: Handle,
    orders: mpsc::Sender<Order>,
    resume: Option<std::sync::mpsc::Sender<()>>,
    thread: Option<std::thread::JoinHandle<Ended>>,
}

impl Running {
    pub async fn start(config: Config, dialler: Dialler) -> Result<Running, StartError> {
        let (started, start) = oneshot::channel();
        let (orders, inbox) = mpsc::channel(4);
        let name = format!("replica-{}", config.id);
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime for a replica");
            let ended = runtime.block_on(serve(config, dialler, started, inbox));
            // Here its listener and its connections close, as a dying process's do.
            runtime.shutdown_background();
            ended
        };
        let thread = std::thread::Builder::new().name(name).spawn(run).expect("a thread for a replica");
        let handle = start.await.expect("the replica's thread says how its start went")?;
        Ok(Running { handle, orders, resume: None, thread: Some(thread) })
    }

    pub async fn kill(mut self) {
        self.resume = None;
        let _ = self.orders.send(Order::Kill).await;
        self.join().await;
    }

    pub async fn stop(mut self) -> Ended {
        self.resume = None;
        let _ = self.orders.send(Order::Stop).await;
        self.join().await
    }

    pub async fn ended(mut self) -> Ended {
        self.join().await
    }

    pub async fn pause(&mut self) {
        let (resume, until) = std::sync::mpsc::channel();
        let (held, holding) = oneshot::channel();
        let _ = self.orders.send(Order::Pause(until, held)).await;
        let _ = holding.await;
        self.resume = Some(resume);
    }

    pub fn resume(&mut self) {
        self.resume = None;
    }

    async fn join(&mut self) -> Ended {
        let thread = self.thread.take().expect("joined once");
        let joined = tokio::task::spawn_blocking(move || thread.join()).await.expect("the join is not cancelled");
        joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

async fn serve(
    config: Config,
    dialler: Dialler,
    started: oneshot::Sender<Result<Handle, StartError>>,
    mut orders: mpsc::Receiver<Order>,
) -> Ended {
    let server = match Server::start(config, Arc::new(dialler)).await {
        Ok(server) => server,
        Err(error) => {
            let _ = started.send(Err(error));
            return Ended::Stopped;
        }
    };
    let _ = started.send(Ok(server.handle().clone()));
    loop {
        let order = tokio::select! {
            order = orders.recv() => order,
            ended = server.ended() => return ended,
        };
        match order {
            // The cluster was dropped: so is the replica.
            Some(Order::Kill) | None => {
                server.kill();
                return Ended::Stopped;
            }
            Some(Order::Stop) => return server.leave().await,
            Some(Order::Pause(until, held)) => {
                let paused = server.pause().await;
                let _ = held.send(());
                // This blocks the runtime on purpose: a stopped process answers nothing.
                let _ = until.recv();
                drop(paused);
            }
        }
    }
}

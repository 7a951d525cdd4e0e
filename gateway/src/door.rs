//! Where connections come in: a listener for each reactor, and the way from one to another.
//!
//! Listeners that share a port get connections by a hash of their addresses. With thousands that
//! comes out even; with eight, one reactor may well get six, and has the work of three. So a
//! connection that would make a reactor's share clearly larger than the smallest one is handed to
//! the reactor that has the smallest (Envoy calls this exact balance).

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// Where one reactor's connections come in.
pub struct Door {
    listener: TcpListener,
    number: usize,
    reactors: Arc<[Share]>,
    handed: mpsc::UnboundedReceiver<Handed>,
}

/// One reactor's share of the connections.
struct Share {
    open: AtomicUsize,
    hand: mpsc::UnboundedSender<Handed>,
}

/// A connection on its way to another reactor.
struct Handed(std::net::TcpStream, Counted);

impl Door {
    /// A door for each reactor, in order, with a listener each. The listeners share a port.
    pub fn for_all(listeners: Vec<TcpListener>) -> Vec<Door> {
        let (shares, handed): (Vec<Share>, Vec<_>) = listeners
            .iter()
            .map(|_| {
                let (hand, handed) = mpsc::unbounded_channel();
                (Share { open: AtomicUsize::new(0), hand }, handed)
            })
            .unzip();
        let reactors: Arc<[Share]> = shares.into();
        let doors = listeners.into_iter().zip(handed).enumerate();
        doors
            .map(|(number, (listener, handed))| {
                let reactors = reactors.clone();
                Door { listener, number, reactors, handed }
            })
            .collect()
    }

    /// On the reactor's own thread, within its runtime.
    pub(crate) fn open(self) -> io::Result<OpenDoor> {
        self.listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        let Door { number, reactors, handed, .. } = self;
        Ok(OpenDoor { listener, number, reactors, handed })
    }
}

/// A [`Door`] that connections can be accepted at.
pub(crate) struct OpenDoor {
    listener: tokio::net::TcpListener,
    number: usize,
    reactors: Arc<[Share]>,
    handed: mpsc::UnboundedReceiver<Handed>,
}

impl OpenDoor {
    /// The reactor's next connection. `has_room` says when it may have one more.
    ///
    /// Cancel safe: what was accepted is returned at once or belongs to somebody else.
    pub(crate) async fn next(
        &mut self,
        has_room: impl Future<Output = ()>,
    ) -> io::Result<(TcpStream, Counted)> {
        has_room.await;
        loop {
            tokio::select! {
                Some(Handed(stream, counted)) = self.handed.recv() => {
                    return Ok((TcpStream::from_std(stream)?, counted));
                }
                accepted = self.listener.accept() => {
                    let (stream, _) = accepted?;
                    let number = self.choose();
                    let counted = Counted::among(&self.reactors, number);
                    if number == self.number {
                        return Ok((stream, counted));
                    }
                    // A reactor that has ended serves nobody; neither will this one for long.
                    let _ = self.reactors[number].hand.send(Handed(stream.into_std()?, counted));
                }
            }
        }
    }

    /// Who is to have the next one.
    fn choose(&self) -> usize {
        let open = |number: usize| self.reactors[number].open.load(Ordering::Relaxed);
        let fewest = (0..self.reactors.len()).min_by_key(|&number| open(number));
        match fewest {
            Some(other) if open(self.number) > open(other) + open(other) / 8 => other,
            _ => self.number,
        }
    }
}

/// An open connection, counted as one reactor's until this is dropped.
pub(crate) struct Counted(Arc<[Share]>, usize);

impl Counted {
    fn among(reactors: &Arc<[Share]>, number: usize) -> Counted {
        reactors[number].open.fetch_add(1, Ordering::Relaxed);
        Counted(reactors.clone(), number)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0[self.1].open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of connections that all come in at the first door.
    #[tokio::test]
    async fn every_reactor_gets_its_share() {
        let listeners = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let doors = Door::for_all(listeners);
        let address = doors[0].listener.local_addr().unwrap();
        let (served, mut next_served) = mpsc::unbounded_channel();
        for (number, door) in doors.into_iter().enumerate() {
            let (mut door, served) = (door.open().unwrap(), served.clone());
            tokio::spawn(async move {
                while let Ok(connection) = door.next(async {}).await {
                    served.send((number, connection)).unwrap();
                }
            });
        }
        let mut shares: [Vec<_>; 3] = Default::default();
        let mut connect = async |shares: &mut [Vec<_>; 3]| {
            let client = TcpStream::connect(address).await.unwrap();
            let (number, connection) = next_served.recv().await.unwrap();
            shares[number].push((client, connection));
        };
        for _ in 0..9 {
            connect(&mut shares).await;
        }
        assert_eq!(shares.each_ref().map(Vec::len), [3, 3, 3]);
        // Those of one end, and it gets the next ones.
        shares[1].clear();
        for _ in 0..3 {
            connect(&mut shares).await;
        }
        assert_eq!(shares.each_ref().map(Vec::len), [3, 3, 3]);
    }
}

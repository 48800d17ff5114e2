//! What tests of several crates need and no program does: addresses for the programs they start.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpSocket;

/// An address of this machine that is kept for one program: whoever asks for any port is not given this
/// one, also while the program is not yet, or for a while not, listening.
///
/// A socket is bound to it and does not listen: connections are refused, and the system's own choice of
/// ports passes it over, for listeners and for connections. A listener that names the address gets it,
/// since both have `SO_REUSEADDR`, as those of Rust's standard library, tokio and Go do.
#[derive(Debug)]
pub struct Reserved {
    pub address: SocketAddr,
    _socket: TcpSocket,
}

impl Reserved {
    pub fn new() -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        Ok(Reserved { address: socket.local_addr()?, _socket: socket })
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn it_is_there_for_one_listener_at_a_time() {
        let reserved = Reserved::new().unwrap();
        let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, reserved.address.port()));
        for address in [reserved.address, everywhere, reserved.address] {
            let refused = TcpStream::connect(reserved.address).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
            let listener = TcpListener::bind(address).unwrap();
            let _connection = TcpStream::connect(reserved.address).unwrap();
            let _accepted = listener.accept().unwrap();
            assert_eq!(TcpListener::bind(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        }
    }

    #[test]
    fn no_other_is_given_it() {
        let reserved = Reserved::new().unwrap();
        let neighbour = TcpSocket::new_v4().unwrap();
        let taken = neighbour.bind(reserved.address).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    }
}

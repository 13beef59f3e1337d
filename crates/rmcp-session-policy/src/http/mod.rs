//! The HTTP layer: a tower layer for rmcp's `StreamableHttpService`.
//!
//! rmcp gives a session manager no request, and turns each of its errors into 500. [`PolicyLayer`] wraps the service: it
//! gives the manager the client of each request, and answers by what the manager decided.
//!
//! | | |
//! |---|---|
//! | [`PolicyLayer`] | the layer and its settings |
//! | [`PolicyService`] | the service that the layer makes |
//! | [`ForwardedHeader`] | which header of trusted proxies is read |
//! | [`RequestBody`], [`PolicyBody`], [`BodyError`] | the bodies of its requests and responses |

mod answer;
mod body;
mod discard;
mod forwarded;
mod held_lease;
mod layer;
mod proxy_warning;
mod request;
mod service;
mod settings;
mod tracked;
mod visit;

pub use body::{BodyError, PolicyBody, RequestBody};
pub use forwarded::ForwardedHeader;
pub use layer::PolicyLayer;
pub use service::PolicyService;

/// Functions that the fuzz targets call.
#[cfg(fuzzing)]
#[doc(hidden)]
#[allow(missing_docs)]
pub mod fuzzing {
    use std::net::IpAddr;

    use http::HeaderMap;
    use ipnet::IpNet;
    use rmcp::model::RequestId;

    use super::ForwardedHeader;
    use super::request::{Chunks, Envelope};

    #[must_use]
    pub fn client(peer: IpAddr, headers: &HeaderMap, header: ForwardedHeader, trusted: &[IpNet]) -> IpAddr {
        super::forwarded::client(peer, headers, header, trusted)
    }

    pub fn request_id<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Option<RequestId> {
        let mut body = Chunks::default();
        chunks.into_iter().for_each(|chunk| body.push(bytes::Bytes::copy_from_slice(chunk)));
        Envelope::of(&body.join()).map(|envelope| envelope.id)
    }
}

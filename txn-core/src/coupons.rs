//! Coupons of buyers. A coupon is good for one order; who funds it pays when it is used.

use model::record::Coupon;
use model::reply::CouponView;
use model::{Amount, Party, Time};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::shard::checked;
use crate::table::{Row, Table};

/// One coupon.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub(crate) struct OneCoupon {
    pub buyer: u64,
    pub number: u64,
    pub funder: u64,
    /// Whose lines it is good for; 0: everybody's.
    pub seller: u64,
    pub amount: u64,
    pub minimum: u64,
    /// Until when it is good, or 0.
    pub expires: u64,
    pub currency: u16,
    /// 1 while an order uses it, and once one has.
    pub used: u8,
    pub unused: [u8; 5],
}

impl Row for OneCoupon {
    type Key = (u64, u64);

    fn key(&self) -> (u64, u64) {
        (self.buyer, self.number)
    }
}

/// All coupons of a shard.
pub(crate) type Coupons = Table<OneCoupon>;

impl Coupons {
    pub(crate) fn view(&self, buyer: Party, number: u64) -> Option<CouponView> {
        let coupon = self.get(self.find((buyer.0, number))?);
        Some(CouponView {
            buyer,
            number,
            coupon: Coupon {
                funder: Party(coupon.funder),
                seller: (coupon.seller != 0).then_some(Party(coupon.seller)),
                currency: checked(coupon.currency),
                amount: Amount(coupon.amount),
                minimum: Amount(coupon.minimum),
                expires: Time(coupon.expires),
            },
            used: coupon.used != 0,
        })
    }
}

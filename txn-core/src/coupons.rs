//! Coupons of buyers. A coupon is good for one order; who funds it pays when it is used.

use foldhash::fast::FixedState;
use model::record::Coupon;
use model::reply::CouponView;
use model::{Amount, Party, Time};
use std::hash::BuildHasher;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::arena::{Arena, Pos, SpareRegions};
use crate::index::{Grown, Hash32, Index};
use crate::shard::checked;

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

/// All coupons of a shard.
pub(crate) struct Coupons {
    coupons: Arena,
    /// Most shards never need one.
    index: Option<Index>,
    hasher: FixedState,
    spare: SpareRegions,
}

impl Coupons {
    pub(crate) fn new(hasher: FixedState, spare: &SpareRegions) -> Coupons {
        Coupons { coupons: Arena::new(spare), index: None, hasher, spare: spare.clone() }
    }

    fn hash(&self, buyer: Party, number: u64) -> Hash32 {
        self.hasher.hash_one((buyer.0, number)).into()
    }

    pub(crate) fn find(&self, buyer: Party, number: u64) -> Option<Pos> {
        self.index.as_ref()?.find(self.hash(buyer, number), |pos| {
            let coupon: &OneCoupon = self.coupons.get(pos);
            coupon.buyer == buyer.0 && coupon.number == number
        })
    }

    pub(crate) fn get(&self, pos: Pos) -> &OneCoupon {
        self.coupons.get(pos)
    }

    pub(crate) fn set_used(&mut self, pos: Pos, used: bool) {
        self.coupons.get_mut::<OneCoupon>(pos).used = used.into();
    }

    /// Remembers a coupon that isn't there yet.
    pub(crate) fn insert(&mut self, coupon: OneCoupon) {
        let pos = self.coupons.push(coupon);
        let hash = self.hash(Party(coupon.buyer), coupon.number);
        self.index.get_or_insert_with(|| Index::new(&self.spare)).insert(hash, pos);
    }

    pub(crate) fn view(&self, buyer: Party, number: u64) -> Option<CouponView> {
        let coupon = self.get(self.find(buyer, number)?);
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

    pub(crate) fn state_hash(&self) -> u64 {
        self.coupons
            .iter::<OneCoupon>()
            .fold(0, |sum, coupon| sum.wrapping_add(xxhash_rust::xxh3::xxh3_64(coupon.as_bytes())))
    }

    /// How far its tables have grown.
    pub(crate) fn grown(&self) -> Grown {
        self.index.as_ref().map_or(Grown::default(), Index::grown).with(&self.coupons)
    }

    pub(crate) fn has_room(&self) -> bool {
        self.coupons.has_room()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.coupons.bytes() + self.index.as_ref().map_or(0, Index::bytes)
    }
}

//! The tags of an OpenStreetMap element: its types, its address and its prominence.

use serde::Deserialize;

/// The tags that are used here; an element may have many more.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Tags {
    pub(super) name: Option<String>,
    aeroway: Option<String>,
    railway: Option<String>,
    tourism: Option<String>,
    amenity: Option<String>,
    leisure: Option<String>,
    shop: Option<String>,
    wikidata: Option<String>,
    wikipedia: Option<String>,
    #[serde(rename = "addr:housenumber")]
    house_number: Option<String>,
    #[serde(rename = "addr:street")]
    street: Option<String>,
    #[serde(rename = "addr:place")]
    place: Option<String>,
    #[serde(rename = "addr:city")]
    city: Option<String>,
}

/// Rank of a place; the greatest comes first.
///
/// An entry in an encyclopedia says more than the kind of a place. Places of a minor kind come last
/// even with an entry: a bench may commemorate a statesman.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Prominence {
    /// Parking lots, benches, rails.
    Minor,
    Ordinary,
    /// A well-known kind of place: stations, hospitals, museums.
    Landmark,
    /// An ordinary place with a Wikidata or Wikipedia entry.
    Known,
    /// A landmark with a Wikidata or Wikipedia entry.
    KnownLandmark,
}

impl Tags {
    /// Returns keys and values of the tags that classify the element, the most specific key first.
    fn kinds(&self) -> impl Iterator<Item = (&str, &str)> {
        [
            ("aeroway", &self.aeroway),
            ("railway", &self.railway),
            ("tourism", &self.tourism),
            ("amenity", &self.amenity),
            ("leisure", &self.leisure),
            ("shop", &self.shop),
        ]
        .into_iter()
        .filter_map(|(key, values)| Some((key, values.as_deref()?)))
        .flat_map(|(key, values)| values.split(';').map(move |value| (key, value.trim())))
        .filter(|(_, value)| !value.is_empty() && *value != "no")
    }

    /// Returns the rank by the element's most prominent kind.
    pub(super) fn prominence(&self) -> Prominence {
        let kind = self
            .kinds()
            .map(|(key, value)| kind_prominence(key, value))
            .max();
        let is_known = self.wikidata.is_some() || self.wikipedia.is_some();
        match kind.unwrap_or(Prominence::Minor) {
            Prominence::Ordinary if is_known => Prominence::Known,
            Prominence::Landmark if is_known => Prominence::KnownLandmark,
            prominence => prominence,
        }
    }

    /// Returns the types of the place: the values of the tags, under Google's names where those are
    /// well known.
    pub(super) fn types(&self) -> Vec<&str> {
        let mut types = Vec::new();
        for (key, value) in self.kinds() {
            match (key, value) {
                ("aeroway", "aerodrome") => types.push("airport"),
                ("railway", "station") => types.push("train_station"),
                ("shop", "yes") => types.push("store"),
                ("shop", value) => types.extend([value, "store"]),
                (key, "yes") => types.push(key),
                (_, value) => types.push(value),
            }
        }
        types.extend(["point_of_interest", "establishment"]);
        let mut seen = Vec::with_capacity(types.len());
        types.retain(|name| {
            let is_new = !seen.contains(name);
            seen.push(*name);
            is_new
        });
        types
    }

    /// Returns street and city, as far as they are tagged.
    pub(super) fn vicinity(&self) -> Option<String> {
        let street = self.street.as_deref().or(self.place.as_deref());
        let line = match (self.house_number.as_deref(), street) {
            (Some(number), Some(street)) => Some(format!("{number} {street}")),
            (_, street) => street.map(str::to_owned),
        };
        match (line, self.city.as_deref()) {
            (Some(line), Some(city)) => Some(format!("{line}, {city}")),
            (line, city) => line.or(city.map(str::to_owned)),
        }
    }
}

/// Returns the prominence of a kind of place, entries in encyclopedias aside.
fn kind_prominence(key: &str, value: &str) -> Prominence {
    match (key, value) {
        ("aeroway", "aerodrome")
        | ("railway", "station")
        | (
            "amenity",
            "arts_centre" | "college" | "courthouse" | "hospital" | "library" | "theatre"
            | "townhall" | "university",
        )
        | ("tourism", "aquarium" | "attraction" | "gallery" | "museum" | "theme_park" | "zoo")
        | ("leisure", "nature_reserve" | "park" | "stadium")
        | ("shop", "department_store" | "mall") => Prominence::Landmark,
        ("aeroway", "heliport" | "terminal")
        | ("railway", "halt" | "subway_entrance" | "tram_stop") => Prominence::Ordinary,
        ("aeroway" | "railway", _)
        | (
            "amenity",
            "atm" | "bench" | "bicycle_parking" | "bicycle_rental" | "car_sharing"
            | "charging_station" | "clock" | "drinking_water" | "motorcycle_parking" | "parking"
            | "parking_entrance" | "parking_space" | "post_box" | "recycling" | "shelter"
            | "telephone" | "toilets" | "vending_machine" | "waste_basket" | "waste_disposal",
        )
        | ("tourism", "information")
        | ("leisure", "picnic_table" | "pitch") => Prominence::Minor,
        _ => Prominence::Ordinary,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(tags: serde_json::Value, prominence: Prominence, types: &[&str], vicinity: &str) {
        let tags: Tags = serde_json::from_value(tags).unwrap();
        assert_eq!(tags.prominence(), prominence, "{tags:?}");
        let expected = [types, &["point_of_interest", "establishment"]].concat();
        assert_eq!(tags.types(), expected, "{tags:?}");
        assert_eq!(tags.vicinity().unwrap_or_default(), vicinity, "{tags:?}");
    }

    #[test]
    fn tags_give_prominence_types_and_vicinity() {
        use Prominence::*;
        check(
            json!({"aeroway": "aerodrome", "wikidata": "Q8731", "addr:city": "Los Angeles"}),
            KnownLandmark,
            &["airport"],
            "Los Angeles",
        );
        check(
            json!({"railway": "station", "shop": "bakery", "addr:street": "A"}),
            Landmark,
            &["train_station", "bakery", "store"],
            "A",
        );
        check(
            json!({"amenity": "cafe; bar", "shop": "yes", "wikipedia": "en:Cafe"}),
            Known,
            &["cafe", "bar", "store"],
            "",
        );
        check(
            json!({"leisure": "yes", "shop": "no", "addr:place": "B", "addr:housenumber": "2"}),
            Ordinary,
            &["leisure"],
            "2 B",
        );
        check(
            json!({"amenity": "parking", "wikidata": "Q1", "addr:housenumber": "2"}),
            Minor,
            &["parking"],
            "",
        );
        check(json!({"railway": "rail"}), Minor, &["rail"], "");
        check(json!({"unknown": "tag"}), Minor, &[], "");
    }
}

-- The same books as Crest's, and the same order: whole or not at all, remembered by buyer and id.
-- Half of a page of accounts and items stays free, so that an update finds room beside the row.
CREATE TABLE account (party bigint PRIMARY KEY, balance bigint NOT NULL CHECK (balance >= 0))
    WITH (fillfactor = 50);
CREATE TABLE payable (party bigint PRIMARY KEY, balance bigint NOT NULL) WITH (fillfactor = 50);
CREATE TABLE item (
    item bigint PRIMARY KEY,
    seller bigint NOT NULL,
    price bigint NOT NULL,
    stock bigint NOT NULL CHECK (stock >= 0)
) WITH (fillfactor = 50);
-- The lines of an order lie in its row: one row, one index entry.
CREATE TABLE placed (
    buyer bigint NOT NULL,
    id uuid NOT NULL,
    outcome text NOT NULL,
    items bigint[] NOT NULL,
    quantities int[] NOT NULL,
    prices bigint[],
    total bigint,
    PRIMARY KEY (buyer, id)
);

-- Lines come in the order of their items. Items are locked in that order, then sellers in theirs,
-- then the buyer: no two orders wait for each other. An id that two connections bring at once
-- fails the second on the primary key, which undoes it; sent again, it finds the first.
CREATE FUNCTION place_order(the_buyer bigint, the_id uuid, the_items bigint[], the_quantities int[])
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    before placed%ROWTYPE;
    the_prices bigint[] := '{}';
    sellers bigint[] := '{}';
    dues bigint[] := '{}';
    wanted bigint := 0;
    the_price bigint;
    the_seller bigint;
    due bigint;
    the_total bigint := 0;
    the_outcome text := 'ok';
    taken int := 0;
BEGIN
    SELECT * INTO before FROM placed WHERE buyer = the_buyer AND id = the_id;
    IF FOUND THEN
        IF before.items <> the_items OR before.quantities <> the_quantities THEN
            RETURN 'id_reused';
        END IF;
        RETURN CASE before.outcome WHEN 'ok' THEN 'already_done' ELSE before.outcome END;
    END IF;
    FOR line IN 1 .. cardinality(the_items) LOOP
        wanted := wanted + the_quantities[line];
        -- Lines of the same item are one update.
        CONTINUE WHEN the_items[line + 1] = the_items[line];
        UPDATE item SET stock = stock - wanted
            WHERE item.item = the_items[line] AND stock >= wanted
            RETURNING price, seller INTO the_price, the_seller;
        IF NOT FOUND THEN
            PERFORM 1 FROM item WHERE item.item = the_items[line];
            the_outcome := CASE WHEN FOUND THEN 'sold_out' ELSE 'unknown_item' END;
            EXIT;
        END IF;
        WHILE taken < line LOOP
            taken := taken + 1;
            the_prices[taken] := the_price;
        END LOOP;
        sellers := sellers || the_seller;
        dues := dues || the_price * wanted;
        the_total := the_total + the_price * wanted;
        wanted := 0;
    END LOOP;
    IF the_outcome = 'ok' THEN
        IF cardinality(sellers) = 1 THEN
            UPDATE payable SET balance = balance + the_total WHERE party = sellers[1];
        ELSE
            FOR the_seller, due IN
                SELECT s, sum(d) FROM unnest(sellers, dues) AS l (s, d) GROUP BY s ORDER BY s
            LOOP
                UPDATE payable SET balance = balance + due WHERE party = the_seller;
            END LOOP;
        END IF;
        UPDATE account SET balance = balance - the_total
            WHERE party = the_buyer AND balance >= the_total;
        IF NOT FOUND THEN
            FOR the_seller, due IN SELECT * FROM unnest(sellers, dues) LOOP
                UPDATE payable SET balance = balance - due WHERE party = the_seller;
            END LOOP;
            PERFORM 1 FROM account WHERE party = the_buyer;
            the_outcome := CASE WHEN FOUND THEN 'insufficient_funds' ELSE 'unknown_account' END;
        END IF;
    END IF;
    IF the_outcome <> 'ok' THEN
        -- A refusal is remembered, so what it took goes back without undoing the transaction.
        FOR line IN 1 .. taken LOOP
            UPDATE item SET stock = stock + the_quantities[line] WHERE item.item = the_items[line];
        END LOOP;
        INSERT INTO placed VALUES (the_buyer, the_id, the_outcome, the_items, the_quantities);
        RETURN the_outcome;
    END IF;
    INSERT INTO placed
        VALUES (the_buyer, the_id, 'ok', the_items, the_quantities, the_prices, the_total);
    RETURN 'ok';
END $$;

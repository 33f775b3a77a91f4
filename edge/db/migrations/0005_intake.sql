-- An event that came long after it happened, and alarms that come too often to be read (ISA-18.2: chattering).
ALTER TABLE event ADD COLUMN late boolean NOT NULL DEFAULT false;
CREATE INDEX event_late ON event (occurred_at) WHERE late;

ALTER TABLE cases
    -- The source whose alarms came too often, and the last alarm of such a burst.
    ADD COLUMN chatter_source text,
    ADD COLUMN chatter_at timestamptz;
CREATE INDEX cases_chatter ON cases (chatter_at) WHERE chatter_source IS NOT NULL;

-- A view keeps the columns its table had when it was made.
DROP VIEW case_row;
CREATE VIEW case_row AS
SELECT c.*,
       z.area_id, z.line, z.cell, z.name_th AS zone_th, z.name_en AS zone_en,
       a.name_th AS area_th, a.name_en AS area_en
FROM cases c
LEFT JOIN zone z ON z.id = c.zone_id
LEFT JOIN area a ON a.site_id = z.site_id AND a.id = z.area_id;

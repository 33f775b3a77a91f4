-- name: site_put
INSERT INTO site (id, name_th, name_en, timezone) VALUES (%(id)s, %(name_th)s, %(name_en)s, %(timezone)s)
ON CONFLICT (id) DO UPDATE SET name_th = excluded.name_th, name_en = excluded.name_en, timezone = excluded.timezone;

-- name: area_put
INSERT INTO area (site_id, id, name_th, name_en, position)
VALUES (%(site_id)s, %(id)s, %(name_th)s, %(name_en)s, %(position)s)
ON CONFLICT (site_id, id) DO UPDATE
SET name_th = excluded.name_th, name_en = excluded.name_en, position = excluded.position;

-- name: zone_put
INSERT INTO zone (id, site_id, area_id, line, cell, name_th, name_en, position)
VALUES (%(id)s, %(site_id)s, %(area_id)s, %(line)s, %(cell)s, %(name_th)s, %(name_en)s, %(position)s)
ON CONFLICT (id) DO UPDATE
SET area_id = excluded.area_id, line = excluded.line, cell = excluded.cell,
    name_th = excluded.name_th, name_en = excluded.name_en, position = excluded.position;

-- name: camera_put
INSERT INTO camera (id, zone_id) VALUES (%(id)s, %(zone_id)s)
ON CONFLICT (id) DO UPDATE SET zone_id = excluded.zone_id;

-- name: worker_put
INSERT INTO worker (id, zone_id, skill) VALUES (%(id)s, %(zone_id)s, %(skill)s)
ON CONFLICT (id) DO UPDATE SET zone_id = excluded.zone_id, skill = excluded.skill;

-- name: site_get
-- One box serves one site: the first one loaded.
SELECT id, name_th, name_en, timezone FROM site ORDER BY id LIMIT 1;

-- name: zones
SELECT z.id, z.area_id, z.line, z.cell, z.name_th, z.name_en, a.name_th AS area_th, a.name_en AS area_en
FROM zone z JOIN area a ON a.site_id = z.site_id AND a.id = z.area_id
ORDER BY a.position, z.position, z.id;

-- name: zone_at
SELECT id FROM zone WHERE site_id = %(site)s AND area_id = %(area)s AND line = %(line)s AND cell = %(cell)s;

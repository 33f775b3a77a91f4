-- What a detector found is told in both languages: a case that has its words shows them in those of its reader.
CREATE OR REPLACE VIEW case_row AS
SELECT c.*, r.record_id AS recurred_as,
       z.area_id, z.line, z.cell, z.name_th AS zone_th, z.name_en AS zone_en,
       a.name_th AS area_th, a.name_en AS area_en, f.reason_th AS told_th, f.reason_en AS told_en
FROM cases c
LEFT JOIN cases r ON r.id = c.recurred_case
LEFT JOIN zone z ON z.id = c.zone_id
LEFT JOIN area a ON a.site_id = z.site_id AND a.id = z.area_id
LEFT JOIN LATERAL (
    SELECT reason_th, reason_en FROM finding
    WHERE case_id = c.id AND c.origin = 'event' AND c.description IN (reason_th, reason_en)
    ORDER BY at, id LIMIT 1) f ON true;

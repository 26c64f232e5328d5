-- The views go with the migrations that made them, and with them who may give rights on them.
do $$
begin
  null;
end
$$;
